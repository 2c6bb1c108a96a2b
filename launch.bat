@echo off
rem Finds a Python that can run launch.py and hands over; everything else is in there.
rem Everything is quoted and no path stands in a block of parentheses or after CALL, so that
rem folders with spaces, brackets, ampersands, exclamation marks and percent signs work.
setlocal EnableExtensions DisableDelayedExpansion
set "HERE=%~dp0"
set "PYEXE="
set "OLD_PAGE="
for /f "tokens=2 delims=:." %%P in ('chcp') do set "OLD_PAGE=%%P"
chcp 65001 >nul
if not exist "%HERE%launch.py" goto incomplete

rem The Python install manager must not install anything here unasked.
set "PYTHON_MANAGER_AUTOMATIC_INSTALL=false"
rem A program in the current folder is not the Python that was meant.
set "NoDefaultCurrentDirectoryInExePath=1"
rem Prints its own path if it will do; the Store's alias and a missing program print nothing.
set "CHECK=import ensurepip, sys; sys.stdout.write(sys.executable * ((3, 10) <= sys.version_info[:2] <= (3, 14) and sys.maxsize > 2**32))"
for %%P in ("py -3.13" "py -3.12" "py -3.11" "py -3.10" "py -3" "python" "python3") do call :try %%~P
if not defined PYEXE goto nopython

"%PYEXE%" -E -s -X utf8 "%HERE%launch.py" %*
set "CODE=%ERRORLEVEL%"
goto end

:try
if defined PYEXE exit /b 0
for /f "delims=" %%E in ('%* -X utf8 -c "%CHECK%" 2^>nul') do set "PYEXE=%%E"
exit /b 0

:nopython
set "FOUND="
set "VERSION=import sys; sys.stdout.write(sys.version.split()[0])"
for /f "delims=" %%V in ('py -c "%VERSION%" 2^>nul') do set "FOUND=%%V"
if not defined FOUND for /f "delims=" %%V in ('python -c "%VERSION%" 2^>nul') do set "FOUND=%%V"
echo.
if defined FOUND echo Nexusquant needs a 64-bit Python 3.10 to 3.14, and this computer has only %FOUND%.
if not defined FOUND echo Nexusquant needs Python, and this computer has none.
echo Install Python 3.12, 64-bit, from python.org, tick "Add python.exe to PATH", start again.
set "CODE=1"
set "ALIAS="
for %%P in (python.exe) do set "ALIAS=%%~$PATH:P"
if not defined ALIAS goto end
if defined FOUND goto end
if not "%ALIAS:WindowsApps=%"=="%ALIAS%" echo The "python" that is here only opens the Microsoft Store; it is not Python.
goto end

:incomplete
echo.
echo launch.py is missing beside launch.bat. Unpack the whole zip first, then start there.
set "CODE=1"

:end
if "%CODE%"=="0" goto done
if defined NEXUSQUANT_NO_PAUSE goto done
echo.
pause
:done
if defined OLD_PAGE chcp %OLD_PAGE% >nul
endlocal & exit /b %CODE%
