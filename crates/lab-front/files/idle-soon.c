/* Dovecot waits 500 ms between noticing a new message and telling an IDLE client of it, so that bursts become one
 * answer. The flake's Dovecot is patched to wait 10 ms. This makes Debian's do the same in the lab: loaded into every
 * process, it changes the delay that mailbox-watch.c asks for and touches no other timeout. */
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
        msecs = 10;
    return dovecots(msecs, source_filename, source_linenum, callback, context);
}
