/* The functions plugins of the job shell call (flux-shell-plugins(7)), as far as only C can define
 * them: variable arguments become text here, all else is done in Rust, behind the table. */

#include <dlfcn.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef void (*free_f) (void *value);
typedef void (*handler_f) (void *h, void *mh, const void *msg, void *arg);
typedef void (*io_f) (void *task, const char *stream, void *arg);

/* What can be had as JSON; the order is that of `Document` in table.rs. */
enum document { OPTION, ENVIRONMENT, SHELL_INFO, JOBSPEC_INFO, RANK_INFO, TASK_INFO };

enum { ENCODE_ANY = 0x200, DECODE_ANY = 0x4 };

/* The order is that of `Table` in table.rs. */
struct table {
    /* of the JSON library */
    void *(*json_loads) (const char *text, size_t flags, void *error);
    int (*json_vunpack_ex) (void *json, void *error, size_t flags, const char *fmt, va_list ap);
    void *(*json_vpack_ex) (void *error, size_t flags, const char *fmt, va_list ap);
    char *(*json_dumps) (const void *json, size_t flags);
    /* in Rust */
    void *(*get_shell) (void *p);
    void *(*get_flux) (void *shell);
    int (*aux_set) (void *shell, const char *name, void *value, free_f free_fn);
    void *(*aux_get) (void *shell, const char *name);
    int (*get) (void *owner, enum document what, const char *name, int rank, char **json);
    int (*set_option) (void *shell, const char *name, const char *json);
    const char *(*getenv) (void *shell, const char *name);
    int (*setenv) (void *shell, int overwrite, const char *name, const char *value);
    int (*unsetenv) (void *shell, const char *name);
    int (*hwloc_xml) (void *shell, const char **xml);
    const void *(*taskmap) (void *shell);
    const void *(*hostlist) (void *shell);
    int (*completion) (void *shell, const char *name, int add);
    void (*killall) (void *shell, int signum);
    int (*event_handler) (void *shell, const char *subtopic, handler_f cb, void *arg);
    int (*service) (void *shell, const char *method, handler_f cb, void *arg);
    void *(*rpc) (void *shell, const char *method, int rank, int flags, const char *json);
    int (*plugstack_call) (void *shell, const char *topic, void *args);
    int (*event_context) (void *shell, const char *name, const char *json);
    void *(*task) (void *shell, int which);
    void *(*task_part) (void *task, int which);
    int (*channel_subscribe) (void *task, const char *channel, io_f cb, void *arg);
    void (*log) (const char *component, int level, const char *file, int line, const char *text);
    void (*fatal) (const char *component, int code, const char *text);
    void (*raise) (const char *type, int severity, int status, const char *text);
    int (*setlevel) (int level, const char *dest);
    char *(*render) (void *shell, int rank, void *task, const char *template);
    int (*is_per_rank) (void *shell, const char *template);
    void (*command_changed) (void *cmd, const char *name);
};

enum { CURRENT, FIRST, NEXT };
enum { COMMAND, SUBPROCESS };
enum { NO_STATUS = -1 };

static const struct table *table;

/* Where a plugin that ends the job goes back to: nothing of Rust is in between. */
static jmp_buf *escape;

void ferroflux_shell_set_table (const struct table *t)
{
    table = t;
}

/* Calls a plugin, or loads one. Returns what that does, or -1 if it ends the job. */
int ferroflux_shell_call (int (*call) (void *p, const char *text, void *args), void *p,
                          const char *text, void *args)
{
    jmp_buf here;
    jmp_buf *volatile outer = escape;
    volatile int rc = -1;
    escape = &here;
    if (setjmp (here) == 0)
        rc = call (p, text, args);
    escape = outer;
    return rc;
}

/* Runs a reactor once without waiting. */
int ferroflux_shell_run (int (*run) (void *reactor, int flags), void *reactor, int flags)
{
    jmp_buf here;
    jmp_buf *volatile outer = escape;
    volatile int rc = -1;
    escape = &here;
    if (setjmp (here) == 0)
        rc = run (reactor, flags);
    escape = outer;
    return rc;
}

static char *format (const char *fmt, va_list ap)
{
    char *text = NULL;
    if (!fmt || vasprintf (&text, fmt, ap) < 0)
        return NULL;
    return text;
}

/* JSON text, or NULL with errno set. */
static char *pack (const char *fmt, va_list ap)
{
    void *json = fmt ? table->json_vpack_ex (NULL, 0, fmt, ap) : NULL;
    char *text = json ? table->json_dumps (json, ENCODE_ANY) : NULL;
    if (!text)
        errno = EINVAL;
    return text;
}

/* Unpacks a document. What is unpacked may point into it, so it is kept for as long as the shell
 * lives. Returns 1, 0 if there is none, -1 on failure. */
static int unpack (void *owner, enum document what, const char *name, int rank, const char *fmt,
                   va_list ap)
{
    char *text = NULL;
    int rc = table->get (owner, what, name, rank, &text);
    if (rc <= 0)
        return rc;
    void *json = fmt ? table->json_loads (text, DECODE_ANY, NULL) : NULL;
    free (text);
    if (!json || table->json_vunpack_ex (json, NULL, 0, fmt, ap) < 0) {
        errno = EINVAL;
        return -1;
    }
    return 1;
}

static int zero_if_there (int rc)
{
    return rc < 0 ? -1 : 0;
}

void *flux_plugin_get_shell (void *p)
{
    if (!table) {
        errno = EINVAL;
        return NULL;
    }
    return table->get_shell (p);
}

void *flux_shell_get_flux (void *shell)
{
    return table->get_flux (shell);
}

int flux_shell_aux_set (void *shell, const char *name, void *value, free_f free_fn)
{
    return table->aux_set (shell, name, value, free_fn);
}

void *flux_shell_aux_get (void *shell, const char *name)
{
    return table->aux_get (shell, name);
}

int flux_shell_getopt (void *shell, const char *name, char **json)
{
    return table->get (shell, OPTION, name, 0, json);
}

int flux_shell_getopt_unpack (void *shell, const char *name, const char *fmt, ...)
{
    va_list ap;
    va_start (ap, fmt);
    int rc = unpack (shell, OPTION, name, 0, fmt, ap);
    va_end (ap);
    return rc;
}

int flux_shell_setopt (void *shell, const char *name, const char *json)
{
    return table->set_option (shell, name, json);
}

int flux_shell_setopt_pack (void *shell, const char *name, const char *fmt, ...)
{
    va_list ap;
    va_start (ap, fmt);
    char *json = pack (fmt, ap);
    va_end (ap);
    int rc = json ? table->set_option (shell, name, json) : -1;
    free (json);
    return rc;
}

const char *flux_shell_getenv (void *shell, const char *name)
{
    return table->getenv (shell, name);
}

int flux_shell_get_environ (void *shell, char **json)
{
    if (!json) {
        errno = EINVAL;
        return -1;
    }
    return zero_if_there (table->get (shell, ENVIRONMENT, NULL, 0, json));
}

int flux_shell_setenvf (void *shell, int overwrite, const char *name, const char *fmt, ...)
{
    va_list ap;
    va_start (ap, fmt);
    char *value = format (fmt, ap);
    va_end (ap);
    int rc = table->setenv (shell, overwrite, name, value);
    free (value);
    return rc;
}

int flux_shell_unsetenv (void *shell, const char *name)
{
    return table->unsetenv (shell, name);
}

int flux_shell_get_hwloc_xml (void *shell, const char **xml)
{
    return table->hwloc_xml (shell, xml);
}

const void *flux_shell_get_taskmap (void *shell)
{
    return table->taskmap (shell);
}

const void *flux_shell_get_hostlist (void *shell)
{
    return table->hostlist (shell);
}

static int get (void *owner, enum document what, int rank, char **json)
{
    if (!json) {
        errno = EINVAL;
        return -1;
    }
    return zero_if_there (table->get (owner, what, NULL, rank, json));
}

int flux_shell_get_info (void *shell, char **json)
{
    return get (shell, SHELL_INFO, 0, json);
}

int flux_shell_info_unpack (void *shell, const char *fmt, ...)
{
    va_list ap;
    va_start (ap, fmt);
    int rc = unpack (shell, SHELL_INFO, NULL, 0, fmt, ap);
    va_end (ap);
    return zero_if_there (rc);
}

int flux_shell_get_rank_info (void *shell, int rank, char **json)
{
    return get (shell, RANK_INFO, rank, json);
}

int flux_shell_rank_info_unpack (void *shell, int rank, const char *fmt, ...)
{
    va_list ap;
    va_start (ap, fmt);
    int rc = unpack (shell, RANK_INFO, NULL, rank, fmt, ap);
    va_end (ap);
    return zero_if_there (rc);
}

int flux_shell_get_jobspec_info (void *shell, char **json)
{
    return get (shell, JOBSPEC_INFO, 0, json);
}

int flux_shell_jobspec_info_unpack (void *shell, const char *fmt, ...)
{
    va_list ap;
    va_start (ap, fmt);
    int rc = unpack (shell, JOBSPEC_INFO, NULL, 0, fmt, ap);
    va_end (ap);
    return zero_if_there (rc);
}

int flux_shell_add_completion_ref (void *shell, const char *fmt, ...)
{
    va_list ap;
    va_start (ap, fmt);
    char *name = format (fmt, ap);
    va_end (ap);
    int rc = table->completion (shell, name, 1);
    free (name);
    return rc;
}

int flux_shell_remove_completion_ref (void *shell, const char *fmt, ...)
{
    va_list ap;
    va_start (ap, fmt);
    char *name = format (fmt, ap);
    va_end (ap);
    int rc = table->completion (shell, name, 0);
    free (name);
    return rc;
}

void flux_shell_killall (void *shell, int signum)
{
    table->killall (shell, signum);
}

int flux_shell_add_event_handler (void *shell, const char *subtopic, handler_f cb, void *arg)
{
    return table->event_handler (shell, subtopic, cb, arg);
}

int flux_shell_service_register (void *shell, const char *method, handler_f cb, void *arg)
{
    return table->service (shell, method, cb, arg);
}

void *flux_shell_rpc_pack (void *shell, const char *method, int rank, int flags, const char *fmt,
                           ...)
{
    va_list ap;
    va_start (ap, fmt);
    char *json = pack (fmt, ap);
    va_end (ap);
    void *future = json ? table->rpc (shell, method, rank, flags, json) : NULL;
    free (json);
    return future;
}

int flux_shell_plugstack_call (void *shell, const char *topic, void *args)
{
    return table->plugstack_call (shell, topic, args);
}

int flux_shell_add_event_context (void *shell, const char *name, int flags, const char *fmt, ...)
{
    (void) flags;
    va_list ap;
    va_start (ap, fmt);
    char *json = pack (fmt, ap);
    va_end (ap);
    int rc = json ? table->event_context (shell, name, json) : -1;
    free (json);
    return rc;
}

void *flux_shell_current_task (void *shell)
{
    return table->task (shell, CURRENT);
}

void *flux_shell_task_first (void *shell)
{
    return table->task (shell, FIRST);
}

void *flux_shell_task_next (void *shell)
{
    return table->task (shell, NEXT);
}

int flux_shell_task_get_info (void *task, char **json)
{
    return get (task, TASK_INFO, 0, json);
}

int flux_shell_task_info_unpack (void *task, const char *fmt, ...)
{
    va_list ap;
    va_start (ap, fmt);
    int rc = unpack (task, TASK_INFO, NULL, 0, fmt, ap);
    va_end (ap);
    return zero_if_there (rc);
}

void *flux_shell_task_cmd (void *task)
{
    return table->task_part (task, COMMAND);
}

void *flux_shell_task_subprocess (void *task)
{
    return table->task_part (task, SUBPROCESS);
}

int flux_shell_task_channel_subscribe (void *task, const char *channel, io_f cb, void *arg)
{
    return table->channel_subscribe (task, channel, cb, arg);
}

void flux_shell_log (const char *component, int level, const char *file, int line,
                     const char *fmt, ...)
{
    va_list ap;
    va_start (ap, fmt);
    char *text = format (fmt, ap);
    va_end (ap);
    table->log (component, level, file, line, text);
    free (text);
}

/* A text with what an error number says at its end. */
static char *with_error (char *text, int errnum)
{
    char *whole = NULL;
    if (errnum == 0)
        return text;
    if (asprintf (&whole, "%s: %s", text ? text : "", strerror (errnum)) < 0)
        return text;
    free (text);
    return whole;
}

int flux_shell_err (const char *component, const char *file, int line, int errnum,
                    const char *fmt, ...)
{
    enum { ERROR = 3 };
    va_list ap;
    va_start (ap, fmt);
    char *text = with_error (format (fmt, ap), errnum);
    va_end (ap);
    table->log (component, ERROR, file, line, text);
    free (text);
    errno = errnum;
    return -1;
}

void flux_shell_fatal (const char *component, const char *file, int line, int errnum, int code,
                       const char *fmt, ...)
{
    (void) file;
    (void) line;
    va_list ap;
    va_start (ap, fmt);
    char *text = with_error (format (fmt, ap), errnum);
    va_end (ap);
    table->fatal (component, code, text);
    free (text);
    if (escape)
        longjmp (*escape, 1);
    _Exit (code);
}

void flux_shell_raise (const char *type, int severity, const char *fmt, ...)
{
    va_list ap;
    va_start (ap, fmt);
    char *text = format (fmt, ap);
    va_end (ap);
    table->raise (type, severity, NO_STATUS, text);
    free (text);
}

void flux_shell_raise_exit_status (int wait_status, const char *fmt, ...)
{
    va_list ap;
    va_start (ap, fmt);
    char *text = format (fmt, ap);
    va_end (ap);
    table->raise ("exec", 0, wait_status, text);
    free (text);
}

int flux_shell_log_setlevel (int level, const char *dest)
{
    return table->setlevel (level, dest);
}

enum { THIS_RANK = -1 };

char *flux_shell_mustache_render (void *shell, const char *template)
{
    return table->render (shell, THIS_RANK, NULL, template);
}

char *flux_shell_rank_mustache_render (void *shell, int rank, const char *template)
{
    return table->render (shell, rank, NULL, template);
}

char *flux_shell_task_mustache_render (void *shell, void *task, const char *template)
{
    return table->render (shell, THIS_RANK, task, template);
}

bool flux_shell_mustache_is_per_rank (void *shell, const char *template)
{
    return table->is_per_rank (shell, template) > 0;
}

/* A task's variables are set in its command, of which the library tells no names. So this stands
 * before the library's own function, which it calls. */
int flux_cmd_setenvf (void *cmd, int overwrite, const char *name, const char *fmt, ...)
{
    static int (*library) (void *cmd, int overwrite, const char *name, const char *fmt, ...);
    if (!library)
        *(void **) &library = dlsym (RTLD_NEXT, "flux_cmd_setenvf");
    va_list ap;
    va_start (ap, fmt);
    char *value = format (fmt, ap);
    va_end (ap);
    if (!library || !value) {
        free (value);
        errno = library ? EINVAL : ENOSYS;
        return -1;
    }
    int rc = library (cmd, overwrite, name, "%s", value);
    free (value);
    if (rc == 0 && table)
        table->command_changed (cmd, name);
    return rc;
}
