/* The functions plugins of the job manager call (flux-jobtap-plugins(7)), as far as only C can
 * define them: variable arguments become text here, all else is done in Rust, behind the table. */

#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct flux_plugin flux_plugin_t;
typedef struct flux_plugin_arg flux_plugin_arg_t;
typedef void (*free_f) (void *value);
typedef void (*handler_f) (void *h, void *mh, const void *msg, void *arg);

enum { ARG_OUT = 1 };
enum { ROLE_ALL = 0xffffffff };
enum { PROLOG = 0, EPILOG = 1 };

/* The order is that of `Table` in interface.rs. */
struct table {
    /* of the client library */
    flux_plugin_arg_t *(*arg_create) (void);
    void (*arg_destroy) (flux_plugin_arg_t *args);
    int (*arg_vpack) (flux_plugin_arg_t *args, int flags, const char *fmt, va_list ap);
    int (*arg_get) (flux_plugin_arg_t *args, int flags, char **json);
    /* in Rust */
    void *(*get_flux) (flux_plugin_t *p);
    int (*service_register) (flux_plugin_t *p, const char *method, uint32_t rolemask,
                             handler_f cb, void *arg);
    int (*set_load_sort_order) (flux_plugin_t *p, const char *mode);
    int (*reprioritize_all) (flux_plugin_t *p);
    int (*reprioritize_job) (flux_plugin_t *p, uint64_t id, unsigned int priority);
    int (*priority_unavail) (flux_plugin_t *p, flux_plugin_arg_t *args);
    int (*refuse) (flux_plugin_t *p, flux_plugin_arg_t *args, const char *text, int rejects);
    int (*dependency) (flux_plugin_t *p, uint64_t id, const char *description, int add);
    int (*aux_set) (flux_plugin_t *p, uint64_t id, const char *name, void *value, free_f free_fn);
    void *(*aux_get) (flux_plugin_t *p, uint64_t id, const char *name);
    int (*aux_delete) (flux_plugin_t *p, uint64_t id, void *value);
    int (*set_flag) (flux_plugin_t *p, uint64_t id, const char *flag);
    int (*raise) (flux_plugin_t *p, uint64_t id, const char *type, int severity,
                  const char *note);
    int (*post_event) (flux_plugin_t *p, uint64_t id, const char *name, const char *context);
    int (*update_jobspec) (flux_plugin_t *p, uint64_t id, int by_id, const char *updates);
    flux_plugin_arg_t *(*lookup) (flux_plugin_t *p, uint64_t id);
    int (*result) (flux_plugin_t *p, uint64_t id, int *result);
    int (*event_posted) (flux_plugin_t *p, uint64_t id, const char *name);
    int (*subscribe) (flux_plugin_t *p, uint64_t id, int wanted);
    int (*action_start) (flux_plugin_t *p, int epilog, const char *description);
    int (*action_finish) (flux_plugin_t *p, uint64_t id, int epilog, const char *description,
                          int status);
    int (*call) (flux_plugin_t *p, uint64_t id, const char *topic, flux_plugin_arg_t *args);
};

static const struct table *table;

void ferroflux_jobtap_set_table (const struct table *t)
{
    table = t;
}

/* A text, or NULL without a format or memory. */
static char *format (const char *fmt, va_list ap)
{
    char *text = NULL;
    if (!fmt || vasprintf (&text, fmt, ap) < 0)
        return NULL;
    return text;
}

/* An object as JSON text, or NULL with errno set. */
static char *pack (const char *fmt, va_list ap)
{
    char *json = NULL;
    flux_plugin_arg_t *args = table->arg_create ();
    if (!args)
        return NULL;
    if (table->arg_vpack (args, ARG_OUT, fmt, ap) < 0
        || table->arg_get (args, ARG_OUT, &json) < 0) {
        json = NULL;
        errno = EINVAL;
    }
    table->arg_destroy (args);
    return json;
}

void *flux_jobtap_get_flux (flux_plugin_t *p)
{
    return table->get_flux (p);
}

int flux_jobtap_service_register (flux_plugin_t *p, const char *method, handler_f cb, void *arg)
{
    return table->service_register (p, method, ROLE_ALL, cb, arg);
}

int flux_jobtap_service_register_ex (flux_plugin_t *p, const char *method, uint32_t rolemask,
                                     handler_f cb, void *arg)
{
    return table->service_register (p, method, rolemask, cb, arg);
}

int flux_jobtap_set_load_sort_order (flux_plugin_t *p, const char *mode)
{
    return table->set_load_sort_order (p, mode);
}

int flux_jobtap_reprioritize_all (flux_plugin_t *p)
{
    return table->reprioritize_all (p);
}

int flux_jobtap_reprioritize_job (flux_plugin_t *p, uint64_t id, unsigned int priority)
{
    return table->reprioritize_job (p, id, priority);
}

int flux_jobtap_priority_unavail (flux_plugin_t *p, flux_plugin_arg_t *args)
{
    return table->priority_unavail (p, args);
}

int flux_jobtap_error (flux_plugin_t *p, flux_plugin_arg_t *args, const char *fmt, ...)
{
    va_list ap;
    va_start (ap, fmt);
    char *text = format (fmt, ap);
    va_end (ap);
    int rc = table->refuse (p, args, text, 0);
    free (text);
    return rc;
}

int flux_jobtap_reject_job (flux_plugin_t *p, flux_plugin_arg_t *args, const char *fmt, ...)
{
    va_list ap;
    va_start (ap, fmt);
    char *text = format (fmt, ap);
    va_end (ap);
    int rc = table->refuse (p, args, text, 1);
    free (text);
    return rc;
}

int flux_jobtap_dependency_add (flux_plugin_t *p, uint64_t id, const char *description)
{
    return table->dependency (p, id, description, 1);
}

int flux_jobtap_dependency_remove (flux_plugin_t *p, uint64_t id, const char *description)
{
    return table->dependency (p, id, description, 0);
}

int flux_jobtap_job_aux_set (flux_plugin_t *p, uint64_t id, const char *name, void *value,
                             free_f free_fn)
{
    return table->aux_set (p, id, name, value, free_fn);
}

void *flux_jobtap_job_aux_get (flux_plugin_t *p, uint64_t id, const char *name)
{
    return table->aux_get (p, id, name);
}

int flux_jobtap_job_aux_delete_value (flux_plugin_t *p, uint64_t id, void *value)
{
    return table->aux_delete (p, id, value);
}

int flux_jobtap_job_aux_delete (flux_plugin_t *p, uint64_t id, void *value)
{
    return table->aux_delete (p, id, value);
}

int flux_jobtap_job_set_flag (flux_plugin_t *p, uint64_t id, const char *flag)
{
    return table->set_flag (p, id, flag);
}

int flux_jobtap_raise_exception (flux_plugin_t *p, uint64_t id, const char *type, int severity,
                                 const char *fmt, ...)
{
    va_list ap;
    va_start (ap, fmt);
    char *note = format (fmt, ap);
    va_end (ap);
    int rc = table->raise (p, id, type, severity, note);
    free (note);
    return rc;
}

int flux_jobtap_event_post_pack (flux_plugin_t *p, uint64_t id, const char *name,
                                 const char *fmt, ...)
{
    char *context = NULL;
    if (fmt && p) {
        va_list ap;
        va_start (ap, fmt);
        context = pack (fmt, ap);
        va_end (ap);
        if (!context)
            return -1;
    }
    int rc = table->post_event (p, id, name, context);
    free (context);
    return rc;
}

static int update (flux_plugin_t *p, uint64_t id, int by_id, const char *fmt, va_list ap)
{
    if (!p || !fmt) {
        errno = EINVAL;
        return -1;
    }
    char *updates = pack (fmt, ap);
    if (!updates)
        return -1;
    int rc = table->update_jobspec (p, id, by_id, updates);
    free (updates);
    return rc;
}

int flux_jobtap_jobspec_update_pack (flux_plugin_t *p, const char *fmt, ...)
{
    va_list ap;
    va_start (ap, fmt);
    int rc = update (p, UINT64_MAX, 0, fmt, ap);
    va_end (ap);
    return rc;
}

int flux_jobtap_jobspec_update_id_pack (flux_plugin_t *p, uint64_t id, const char *fmt, ...)
{
    va_list ap;
    va_start (ap, fmt);
    int rc = update (p, id, 1, fmt, ap);
    va_end (ap);
    return rc;
}

flux_plugin_arg_t *flux_jobtap_job_lookup (flux_plugin_t *p, uint64_t id)
{
    return table->lookup (p, id);
}

int flux_jobtap_get_job_result (flux_plugin_t *p, uint64_t id, int *result)
{
    return table->result (p, id, result);
}

int flux_jobtap_job_event_posted (flux_plugin_t *p, uint64_t id, const char *name)
{
    return table->event_posted (p, id, name);
}

int flux_jobtap_job_subscribe (flux_plugin_t *p, uint64_t id)
{
    return table->subscribe (p, id, 1);
}

void flux_jobtap_job_unsubscribe (flux_plugin_t *p, uint64_t id)
{
    (void) table->subscribe (p, id, 0);
}

int flux_jobtap_prolog_start (flux_plugin_t *p, const char *description)
{
    return table->action_start (p, PROLOG, description);
}

int flux_jobtap_prolog_finish (flux_plugin_t *p, uint64_t id, const char *description, int status)
{
    return table->action_finish (p, id, PROLOG, description, status);
}

int flux_jobtap_epilog_start (flux_plugin_t *p, const char *description)
{
    return table->action_start (p, EPILOG, description);
}

int flux_jobtap_epilog_finish (flux_plugin_t *p, uint64_t id, const char *description, int status)
{
    return table->action_finish (p, id, EPILOG, description, status);
}

int flux_jobtap_call (flux_plugin_t *p, uint64_t id, const char *topic, flux_plugin_arg_t *args)
{
    return table->call (p, id, topic, args);
}
