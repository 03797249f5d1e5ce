/* Dovecot waits 500 ms after it has noticed a new message before it notifies an IDLE client, to combine bursts. The
 * flake's Dovecot is patched to wait 1 ms. This library does the same for Debian's Dovecot in the lab: it is preloaded
 * into every process and changes only the delay that mailbox-watch.c requests. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <string.h>

struct timeout;
typedef void timeout_callback_t(void *context);
typedef struct timeout *timeout_add_short_t(unsigned int msecs, const char *source_filename, unsigned int source_linenum,
                                            timeout_callback_t *callback, void *context);

struct timeout *timeout_add_short(unsigned int msecs, const char *source_filename, unsigned int source_linenum,
                                  timeout_callback_t *callback, void *context)
{
    static timeout_add_short_t *dovecots;
    if (dovecots == NULL)
        dovecots = (timeout_add_short_t *)dlsym(RTLD_NEXT, "timeout_add_short");
    if (source_filename != NULL && strstr(source_filename, "mailbox-watch.c") != NULL)
        msecs = 1;
    return dovecots(msecs, source_filename, source_linenum, callback, context);
}
