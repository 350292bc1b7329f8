/* <objc/message.h> as macOS declares it: objc_msgSend without a prototype, so that a call which is not
 * cast to the method's types does not compile. The GCC runtime has no such function; ../../objc_msgsend.c
 * is it. */
#ifndef FAKE_OBJC_MESSAGE_H
#define FAKE_OBJC_MESSAGE_H

#include_next <objc/message.h>

#ifdef __clang__
#pragma clang diagnostic push
#pragma clang diagnostic ignored "-Wincompatible-library-redeclaration"
#endif
extern void objc_msgSend(void);
#ifdef __clang__
#pragma clang diagnostic pop
#endif

#endif
