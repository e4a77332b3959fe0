
/*
 * The status of a relay: see "derp_status" in docs/directives.md.  The one
 * place for jansson, which reads nothing here.
 */


#include "ngx_http_derp_status.h"
#include "ngx_derp_census.h"
#include "ngx_derp_lease.h"
#include "ngx_derp_mesh.h"
#include "ngx_derp_outbox.h"

#include <jansson.h>


#define NGX_HTTP_DERP_PROTOCOL  2


/* where a number stands in the JSON, "object.name", and in what was counted */

typedef struct {
    const char  *path;
    size_t       offset;
} ngx_http_derp_number_t;


static json_t *ngx_http_derp_status_json(ngx_derp_relay_t *relay,
    ngx_derp_census_t *census);
static json_t *ngx_http_derp_status_name(ngx_derp_relay_t *relay);
static json_t *ngx_http_derp_status_key(ngx_derp_relay_t *relay);
static json_t *ngx_http_derp_status_use(ngx_derp_use_t *use);
static json_t *ngx_http_derp_status_links(ngx_derp_relay_t *relay);
static json_t *ngx_http_derp_status_past(ngx_derp_census_t *census);
static json_t *ngx_http_derp_status_workers(ngx_derp_census_t *census);
static json_t *ngx_http_derp_status_worker(ngx_uint_t slot,
    ngx_derp_member_t *member);
static int ngx_http_derp_status_numbers(json_t *object,
    const ngx_http_derp_number_t *numbers, void *counted);
static int ngx_http_derp_status_number(json_t *object, const char *path,
    uint64_t n);
static ngx_buf_t *ngx_http_derp_status_buf(ngx_pool_t *pool, json_t *json);
static ngx_int_t ngx_http_derp_status_send(ngx_http_request_t *r,
    ngx_buf_t *b);


#define ngx_http_derp_counter(path, field)                                    \
    { path, offsetof(ngx_derp_counters_t, field) }

#define ngx_http_derp_login_failure(path, reason)                             \
    ngx_http_derp_counter("logins.failed." path, login_failures[reason])

#define ngx_http_derp_drop(path, reason)                                      \
    ngx_http_derp_counter("dropped.other." path,                              \
                          dropped[reason][NGX_DERP_OTHER]),                   \
    ngx_http_derp_counter("dropped.disco." path,                              \
                          dropped[reason][NGX_DERP_DISCO]),                   \
    ngx_http_derp_counter("dropped_bytes.other." path,                        \
                          dropped_bytes[reason][NGX_DERP_OTHER]),             \
    ngx_http_derp_counter("dropped_bytes.disco." path,                        \
                          dropped_bytes[reason][NGX_DERP_DISCO])


/* derper's names, as far as it has them */

static const ngx_http_derp_number_t  ngx_http_derp_counters[] = {

    ngx_http_derp_counter("accepts", accepts),

    ngx_http_derp_counter("logins.ok", logins),
    ngx_http_derp_login_failure("closed", NGX_DERP_LOGIN_CLOSED),
    ngx_http_derp_login_failure("timeout", NGX_DERP_LOGIN_TIMEOUT),
    ngx_http_derp_login_failure("protocol", NGX_DERP_LOGIN_PROTOCOL),
    ngx_http_derp_login_failure("box", NGX_DERP_LOGIN_BOX),
    ngx_http_derp_login_failure("json", NGX_DERP_LOGIN_JSON),
    ngx_http_derp_login_failure("full", NGX_DERP_LOGIN_FULL),
    ngx_http_derp_login_failure("memory", NGX_DERP_LOGIN_MEMORY),
    ngx_http_derp_login_failure("shutdown", NGX_DERP_LOGIN_SHUTDOWN),

    ngx_http_derp_counter("packets.received", packets_received),
    ngx_http_derp_counter("packets.sent", packets_sent),
    ngx_http_derp_counter("packets.forwarded_in", forwarded_in),
    ngx_http_derp_counter("packets.forwarded_out", forwarded_out),
    ngx_http_derp_counter("bytes.received", bytes_received),
    ngx_http_derp_counter("bytes.sent", bytes_sent),

    ngx_http_derp_drop("unknown_dest", NGX_DERP_DROP_UNKNOWN_DEST),
    ngx_http_derp_drop("unknown_dest_on_fwd",
                       NGX_DERP_DROP_UNKNOWN_DEST_ON_FWD),
    ngx_http_derp_drop("gone_disconnected", NGX_DERP_DROP_GONE_DISCONNECTED),
    ngx_http_derp_drop("queue_head", NGX_DERP_DROP_QUEUE_HEAD),
    ngx_http_derp_drop("queue_tail", NGX_DERP_DROP_QUEUE_TAIL),
    ngx_http_derp_drop("write_error", NGX_DERP_DROP_WRITE_ERROR),
    ngx_http_derp_drop("dup_client", NGX_DERP_DROP_DUP_CLIENT),
    ngx_http_derp_drop("channel", NGX_DERP_DROP_CHANNEL),
    ngx_http_derp_drop("memory", NGX_DERP_DROP_MEMORY),

    ngx_http_derp_counter("pings", pings),
    ngx_http_derp_counter("pongs", pongs),
    ngx_http_derp_counter("peer_gone.disconnected", peer_gone_disconnected),
    ngx_http_derp_counter("peer_gone.not_here", peer_gone_not_here),
    ngx_http_derp_counter("home_moves.in", home_moves_in),
    ngx_http_derp_counter("home_moves.out", home_moves_out),
    ngx_http_derp_counter("write_timeouts", write_timeouts),

    { NULL, 0 }
};


/* a counter without a name does not compile */

typedef char  ngx_http_derp_counters_are_named[
    sizeof(ngx_http_derp_counters) / sizeof(ngx_http_derp_counters[0]) - 1
    == sizeof(ngx_derp_counters_t) / sizeof(uint64_t) ? 1 : -1];


static const ngx_http_derp_number_t  ngx_http_derp_gauges[] = {
    { "clients", offsetof(ngx_derp_gauges_t, clients) },
    { "home_clients", offsetof(ngx_derp_gauges_t, home) },
    { "not_ideal", offsetof(ngx_derp_gauges_t, not_ideal) },
    { "watchers", offsetof(ngx_derp_gauges_t, watchers) },
    { NULL, 0 }
};


ngx_int_t
ngx_http_derp_status_handler(ngx_http_request_t *r)
{
    json_t                    *json;
    ngx_buf_t                 *b;
    ngx_int_t                  rc;
    ngx_derp_relay_t          *relay;
    ngx_derp_census_t          census;
    ngx_http_derp_loc_conf_t  *dlcf;

    if (r->method != NGX_HTTP_GET && r->method != NGX_HTTP_HEAD) {
        return ngx_http_derp_not_allowed(r, "GET, HEAD");
    }

    rc = ngx_http_discard_request_body(r);
    if (rc != NGX_OK) {
        return rc;
    }

    dlcf = ngx_http_get_module_loc_conf(r, ngx_http_derp_module);
    relay = &dlcf->status->relay;

    census.nmembers = ngx_derp_slots_top();
    census.members = ngx_pmemalign(r->pool, census.nmembers
                                            * sizeof(ngx_derp_member_t),
                                   NGX_DERP_CACHE_LINE);
    if (census.members == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    ngx_derp_census(&relay->region, &census);

    json = ngx_http_derp_status_json(relay, &census);
    if (json == NULL) {
        ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                      "no memory for the status of derp_relay \"%V\"",
                      &relay->name);
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    b = ngx_http_derp_status_buf(r->pool, json);

    json_decref(json);

    if (b == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    return ngx_http_derp_status_send(r, b);
}


/*
 * jansson takes NULL for what it has failed to make itself, takes away what it
 * is given to keep even if it cannot, and says so: one look at the end will do.
 */

static json_t *
ngx_http_derp_status_json(ngx_derp_relay_t *relay, ngx_derp_census_t *census)
{
    int               rc;
    json_t           *json, *channels, *inboxes;
    ngx_derp_zone_t  *zone;

    zone = relay->region.zone;

    json = json_object();
    channels = ngx_http_derp_status_use(&census->channels);
    inboxes = ngx_http_derp_status_use(&census->inboxes);

    rc = json_object_set_new(channels, "size", json_integer(zone->ring_size));
    rc |= json_object_set_new(inboxes, "size",
                              json_integer(NGX_DERP_RING_MIN));

    rc |= json_object_set_new(json, "relay",
                              ngx_http_derp_status_name(relay));
    rc |= json_object_set_new(json, "public_key",
                              ngx_http_derp_status_key(relay));
    rc |= json_object_set_new(json, "version",
                              json_integer(NGX_HTTP_DERP_PROTOCOL));
    rc |= json_object_set_new(json, "capacity", json_integer(zone->capacity));

    rc |= json_object_set_new(json, "slots",
                              ngx_http_derp_status_use(&census->slots));
    rc |= json_object_set_new(json, "channels", channels);
    rc |= json_object_set_new(json, "inboxes", inboxes);

    rc |= ngx_http_derp_status_number(json, "keys", census->keys);
    rc |= ngx_http_derp_status_number(json, "duplicate_keys",
                                      census->duplicate_keys);
    rc |= ngx_http_derp_status_number(json, "duplicate_clients",
                                      census->duplicate_clients);

    rc |= ngx_http_derp_status_numbers(json, ngx_http_derp_gauges,
                                       &census->gauges);
    rc |= ngx_http_derp_status_numbers(json, ngx_http_derp_counters,
                                       &census->counters);

    rc |= json_object_set_new(json, "links",
                              ngx_http_derp_status_links(relay));
    rc |= json_object_set_new(json, "past", ngx_http_derp_status_past(census));
    rc |= json_object_set_new(json, "workers",
                              ngx_http_derp_status_workers(census));

    if (rc != 0) {
        json_decref(json);
        return NULL;
    }

    return json;
}


/* what is not UTF-8 cannot be told in JSON */

static json_t *
ngx_http_derp_status_name(ngx_derp_relay_t *relay)
{
    json_t  *name;

    name = json_stringn((char *) relay->name.data, relay->name.len);

    return name ? name : json_null();
}


static json_t *
ngx_http_derp_status_key(ngx_derp_relay_t *relay)
{
    u_char  key[NGX_DERP_HEX_LEN];

    ngx_derp_key_hex(key, relay->public_key);

    return json_stringn((char *) key, sizeof(key));
}


static json_t *
ngx_http_derp_status_use(ngx_derp_use_t *use)
{
    return json_pack("{s:I, s:I}", "used", (json_int_t) use->used,
                     "free", (json_int_t) use->free);
}


static json_t *
ngx_http_derp_status_links(ngx_derp_relay_t *relay)
{
    int                      rc;
    json_t                  *links, *url;
    ngx_uint_t               i, n;
    ngx_derp_link_t         *link;
    ngx_derp_link_status_t   status;

    rc = 0;
    links = json_array();

    n = relay->mesh ? relay->mesh->links.nelts : 0;
    link = n ? relay->mesh->links.elts : NULL;

    for (i = 0; i < n; i++) {
        ngx_derp_lease_look(&relay->region, link[i].id, &status);

        url = json_sprintf("http%s://%.*s", link[i].secure ? "s" : "",
                           (int) link[i].url.url.len,
                           (char *) link[i].url.url.data);

        rc |= json_array_append_new(links,
                                    json_pack("{s:o, s:b, s:I, s:s}",
                                              "url", url ? url : json_null(),
                                              "up", (int) status.up,
                                              "since",
                                              (json_int_t) status.since,
                                              "error",
                                              (char *) status.error));
    }

    if (rc != 0) {
        json_decref(links);
        return NULL;
    }

    return links;
}


static json_t *
ngx_http_derp_status_past(ngx_derp_census_t *census)
{
    json_t  *past;

    past = json_object();

    if (ngx_http_derp_status_numbers(past, ngx_http_derp_counters,
                                     &census->past)
        != 0)
    {
        json_decref(past);
        return NULL;
    }

    return past;
}


static json_t *
ngx_http_derp_status_workers(ngx_derp_census_t *census)
{
    int                 rc;
    json_t             *workers;
    ngx_uint_t          i;
    ngx_derp_member_t  *member;

    workers = json_array();
    rc = 0;

    for (i = 0; i < census->nmembers; i++) {
        member = &census->members[i];

        if (member->generation) {
            rc |= json_array_append_new(workers,
                                        ngx_http_derp_status_worker(i, member));
        }
    }

    if (rc != 0) {
        json_decref(workers);
        return NULL;
    }

    return workers;
}


static json_t *
ngx_http_derp_status_worker(ngx_uint_t slot, ngx_derp_member_t *member)
{
    int      rc;
    json_t  *worker;

    worker = json_object();

    rc = ngx_http_derp_status_number(worker, "slot", slot);
    rc |= ngx_http_derp_status_number(worker, "pid", member->pid);
    rc |= ngx_http_derp_status_number(worker, "configuration",
                                      member->configuration);

    rc |= ngx_http_derp_status_numbers(worker, ngx_http_derp_gauges,
                                       &member->gauges);
    rc |= ngx_http_derp_status_numbers(worker, ngx_http_derp_counters,
                                       &member->counters);

    if (rc != 0) {
        json_decref(worker);
        return NULL;
    }

    return worker;
}


static int
ngx_http_derp_status_numbers(json_t *object,
    const ngx_http_derp_number_t *numbers, void *counted)
{
    int       rc;
    uint64_t  n;

    rc = 0;

    for ( /* void */ ; numbers->path; numbers++) {
        n = *(uint64_t *) ((u_char *) counted + numbers->offset);
        rc |= ngx_http_derp_status_number(object, numbers->path, n);
    }

    return rc;
}


/* Objects on the path are made as they are come to. */

static int
ngx_http_derp_status_number(json_t *object, const char *path, uint64_t n)
{
    char        name[32];
    json_t     *inner;
    const char *dot;

    for (dot = strchr(path, '.'); dot; dot = strchr(path, '.')) {

        (void) ngx_cpystrn((u_char *) name, (u_char *) path,
                           ngx_min((size_t) (dot - path) + 1, sizeof(name)));

        inner = json_object_get(object, name);

        if (inner == NULL) {
            inner = json_object();

            if (json_object_set_new(object, name, inner) != 0) {
                return -1;
            }
        }

        object = inner;
        path = dot + 1;
    }

    return json_object_set_new(object, path, json_integer((json_int_t) n));
}


static ngx_buf_t *
ngx_http_derp_status_buf(ngx_pool_t *pool, json_t *json)
{
    size_t      len;
    ngx_buf_t  *b;

    len = json_dumpb(json, NULL, 0, JSON_COMPACT);

    if (len == 0) {
        return NULL;
    }

    b = ngx_create_temp_buf(pool, len + 1);
    if (b == NULL) {
        return NULL;
    }

    b->last += json_dumpb(json, (char *) b->pos, len, JSON_COMPACT);
    *b->last++ = '\n';

    return b;
}


static ngx_int_t
ngx_http_derp_status_send(ngx_http_request_t *r, ngx_buf_t *b)
{
    ngx_int_t    rc;
    ngx_chain_t  out;

    r->headers_out.status = NGX_HTTP_OK;
    r->headers_out.content_length_n = b->last - b->pos;

    ngx_str_set(&r->headers_out.content_type, "application/json");
    r->headers_out.content_type_len = r->headers_out.content_type.len;
    r->headers_out.content_type_lowcase = NULL;

    if (ngx_http_derp_add_header(r, "Cache-Control", (u_char *) "no-store",
                                 sizeof("no-store") - 1)
        != NGX_OK)
    {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    rc = ngx_http_send_header(r);

    if (rc == NGX_ERROR || rc > NGX_OK || r->header_only) {
        return rc;
    }

    b->last_buf = (r == r->main) ? 1 : 0;
    b->last_in_chain = 1;

    out.buf = b;
    out.next = NULL;

    return ngx_http_output_filter(r, &out);
}
