#!/bin/sh
# Finds a Python that can run launch.py and hands over; everything else is in there.
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd -P) || exit 1
if [ ! -f "$here/launch.py" ]; then
    echo "launch.py is missing beside launch.sh. Unpack the whole archive first." >&2
    exit 1
fi

check='import ensurepip, sys, venv; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 14))'
version='import sys; print("%d.%d.%d" % sys.version_info[:3])'
found=
for name in python3.13 python3.12 python3.11 python3.10 python3 python; do
    program=$(command -v "$name") || continue
    # without Apple's developer tools this one only opens a dialog
    if [ "$program" = /usr/bin/python3 ] && [ "$(uname)" = Darwin ]; then
        xcode-select -p >/dev/null 2>&1 || continue
    fi
    if "$program" -c "$check" >/dev/null 2>&1; then
        exec "$program" -E -s -X utf8 "$here/launch.py" "$@"
    fi
    found=${found:-$("$program" -c "$version" 2>/dev/null)}
done

case $found in
    '') echo "Nexusquant needs Python 3.10 to 3.14, and there is none here." >&2 ;;
    3.1[0-4].*) echo "Python $found is here, but without its venv module." >&2 ;;
    *) echo "Nexusquant needs Python 3.10 to 3.14, and only $found is here." >&2 ;;
esac
echo "On Debian and Ubuntu: sudo apt install python3 python3-venv" >&2
echo "On Fedora: sudo dnf install python3.12; on a Mac: Python 3.12 from python.org" >&2
exit 1
