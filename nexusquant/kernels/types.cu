// Short names. In front of every program.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
