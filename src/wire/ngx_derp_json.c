
/*
 * JSON, by one loop over its bytes.  Of what an object or an array is in, all
 * that is kept is a bit for each level, so that the deepest nesting costs no
 * more than any other text.
 */


#include "ngx_derp_json.h"


/* U+017F and U+212A, which foldName() takes for letters of ASCII */
#define NGX_DERP_JSON_LONG_S  0x017f
#define NGX_DERP_JSON_KELVIN  0x212a

/* no member with a longer name is known */
#define NGX_DERP_JSON_NAME    16


typedef struct {
    const ngx_derp_json_field_t  *fields;
    void                         *data;
    char                         *error;

    u_char                       *last;

    /* the member of the outermost object that is being read */
    u_char                       *name;
    u_char                       *value;

    /* a bit for each level: set for an object */
    ngx_uint_t                    depth;
    uint32_t                      objects[NGX_DERP_JSON_DEPTH / 32 + 1];
} ngx_derp_json_t;


/* these return what is behind, or NULL if it is wrong */
static u_char *ngx_derp_json_scan(ngx_derp_json_t *json, u_char *p);
static u_char *ngx_derp_json_value(ngx_derp_json_t *json, u_char *p);
static u_char *ngx_derp_json_next(ngx_derp_json_t *json, u_char *p);
static u_char *ngx_derp_json_name(ngx_derp_json_t *json, u_char *p);
static u_char *ngx_derp_json_scalar(ngx_derp_json_t *json, u_char *p);
static u_char *ngx_derp_json_string(u_char *p, u_char *last);
static u_char *ngx_derp_json_escape(u_char *p, u_char *last);
static u_char *ngx_derp_json_literal(u_char *p, u_char *last, const char *name,
    size_t len);
static u_char *ngx_derp_json_number(u_char *p, u_char *last);
static u_char *ngx_derp_json_digits(u_char *p, u_char *last);
static u_char *ngx_derp_json_space(u_char *p, u_char *last);

static ngx_int_t ngx_derp_json_member(ngx_derp_json_t *json, u_char *p);
static size_t ngx_derp_json_decode(u_char *p, u_char *text, size_t size,
    ngx_uint_t fold);
static ngx_uint_t ngx_derp_json_fold(ngx_uint_t c);
static ngx_uint_t ngx_derp_json_char(u_char **p);
static ngx_uint_t ngx_derp_json_unescape(u_char *p);


ngx_int_t
ngx_derp_json_read(const ngx_derp_json_field_t *fields, u_char *p, size_t len,
    void *data, char **error)
{
    u_char           first;
    ngx_derp_json_t  json;

    json.fields = fields;
    json.data = data;
    json.error = "not JSON";
    json.last = p + len;
    json.name = NULL;
    json.depth = 0;

    p = ngx_derp_json_space(p, json.last);
    first = (p < json.last) ? *p : '\0';

    p = ngx_derp_json_scan(&json, p);

    if (p == NULL || ngx_derp_json_space(p, json.last) != json.last) {
        *error = json.error;
        return NGX_DECLINED;
    }

    if (first != '{' && first != 'n') {
        *error = "not a JSON object";
        return NGX_DECLINED;
    }

    return NGX_OK;
}


static u_char *
ngx_derp_json_scan(ngx_derp_json_t *json, u_char *p)
{
    p = ngx_derp_json_value(json, p);

    while (p && json->depth) {

        /* here a value has ended that is in an object or an array */

        if (json->depth == 1
            && json->name
            && ngx_derp_json_member(json, p) != NGX_OK)
        {
            return NULL;
        }

        p = ngx_derp_json_next(json, p);
    }

    return p;
}


/*
 * Reads a value; but one that has others in it only up to the end of the first
 * of those that has none, which ngx_derp_json_next() goes on from.
 */

static u_char *
ngx_derp_json_value(ngx_derp_json_t *json, u_char *p)
{
    uint32_t   *level, bit;
    ngx_uint_t  object;

    while (p && p < json->last && (*p == '{' || *p == '[')) {

        if (json->depth == NGX_DERP_JSON_DEPTH) {
            json->error = "nested too deeply";
            return NULL;
        }

        object = (*p == '{');
        p = ngx_derp_json_space(p + 1, json->last);

        if (p < json->last && *p == (object ? '}' : ']')) {
            return p + 1;
        }

        level = &json->objects[json->depth / 32];
        bit = (uint32_t) 1 << json->depth % 32;
        *level = object ? *level | bit : *level & ~bit;

        json->depth++;

        if (object) {
            p = ngx_derp_json_name(json, p);
        }
    }

    return p ? ngx_derp_json_scalar(json, p) : NULL;
}


/* from a value's end to that of the next, or of what the two are in */

static u_char *
ngx_derp_json_next(ngx_derp_json_t *json, u_char *p)
{
    ngx_uint_t  level, object;

    level = json->depth - 1;
    object = json->objects[level / 32] >> level % 32 & 1;

    p = ngx_derp_json_space(p, json->last);

    if (p == json->last) {
        return NULL;
    }

    if (*p == (object ? '}' : ']')) {
        json->depth--;
        return p + 1;
    }

    if (*p != ',') {
        return NULL;
    }

    p = ngx_derp_json_space(p + 1, json->last);

    if (object) {
        p = ngx_derp_json_name(json, p);
    }

    return ngx_derp_json_value(json, p);
}


static u_char *
ngx_derp_json_name(ngx_derp_json_t *json, u_char *p)
{
    u_char  *name;

    name = p;

    if (p == json->last || *p != '"') {
        return NULL;
    }

    p = ngx_derp_json_string(p + 1, json->last);

    if (p == NULL) {
        return NULL;
    }

    p = ngx_derp_json_space(p, json->last);

    if (p == json->last || *p != ':') {
        return NULL;
    }

    p = ngx_derp_json_space(p + 1, json->last);

    if (json->depth == 1) {
        json->name = name + 1;
        json->value = p;
    }

    return p;
}


static u_char *
ngx_derp_json_scalar(ngx_derp_json_t *json, u_char *p)
{
    if (p == json->last) {
        return NULL;
    }

    switch (*p) {

    case '"':
        return ngx_derp_json_string(p + 1, json->last);

    case 't':
        return ngx_derp_json_literal(p, json->last, "true", 4);

    case 'f':
        return ngx_derp_json_literal(p, json->last, "false", 5);

    case 'n':
        return ngx_derp_json_literal(p, json->last, "null", 4);

    case '-':
        return ngx_derp_json_number(p + 1, json->last);

    default:
        return ngx_derp_json_number(p, json->last);
    }
}


static u_char *
ngx_derp_json_string(u_char *p, u_char *last)
{
    while (p < last) {

        if (*p == '"') {
            return p + 1;
        }

        /* all from there on will do: Go takes what is not UTF-8, too */

        if (*p < ' ') {
            return NULL;
        }

        if (*p++ != '\\') {
            continue;
        }

        p = ngx_derp_json_escape(p, last);

        if (p == NULL) {
            return NULL;
        }
    }

    return NULL;
}


static u_char *
ngx_derp_json_escape(u_char *p, u_char *last)
{
    ngx_uint_t  i;

    if (p == last) {
        return NULL;
    }

    switch (*p++) {

    case '"':
    case '\\':
    case '/':
    case 'b':
    case 'f':
    case 'n':
    case 'r':
    case 't':
        return p;

    case 'u':
        for (i = 0; i < 4; i++) {
            if (p == last || !isxdigit(*p++)) {
                return NULL;
            }
        }

        return p;

    default:
        return NULL;
    }
}


static u_char *
ngx_derp_json_literal(u_char *p, u_char *last, const char *name, size_t len)
{
    if ((size_t) (last - p) < len || ngx_memcmp(p, name, len) != 0) {
        return NULL;
    }

    return p + len;
}


/* behind its sign */

static u_char *
ngx_derp_json_number(u_char *p, u_char *last)
{
    /* a zero that comes first is alone */

    if (p < last && *p == '0') {
        p++;

    } else {
        p = ngx_derp_json_digits(p, last);
    }

    if (p && p < last && *p == '.') {
        p = ngx_derp_json_digits(p + 1, last);
    }

    if (p == NULL || p == last || (*p != 'e' && *p != 'E')) {
        return p;
    }

    p++;

    if (p < last && (*p == '+' || *p == '-')) {
        p++;
    }

    return ngx_derp_json_digits(p, last);
}


static u_char *
ngx_derp_json_digits(u_char *p, u_char *last)
{
    u_char  *first;

    first = p;

    while (p < last && *p >= '0' && *p <= '9') {
        p++;
    }

    return p > first ? p : NULL;
}


static u_char *
ngx_derp_json_space(u_char *p, u_char *last)
{
    while (p < last
           && (*p == ' ' || *p == '\t' || *p == '\r' || *p == '\n'))
    {
        p++;
    }

    return p;
}


/* p: behind its value */

static ngx_int_t
ngx_derp_json_member(ngx_derp_json_t *json, u_char *p)
{
    size_t                        len;
    u_char                        name[NGX_DERP_JSON_NAME];
    ngx_str_t                     value;
    const ngx_derp_json_field_t  *field;

    len = ngx_derp_json_decode(json->name, name, sizeof(name), 1);

    for (field = json->fields; field->name.len; field++) {

        if (field->name.len != len
            || ngx_memcmp(field->name.data, name, len) != 0)
        {
            continue;
        }

        value.data = json->value;
        value.len = p - json->value;

        if (field->handler(&value, json->data) != NGX_OK) {
            json->error = field->error;
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


size_t
ngx_derp_json_text(ngx_str_t *value, u_char *text, size_t size)
{
    if (value->data[0] != '"') {
        return size + 1;
    }

    return ngx_derp_json_decode(value->data + 1, text, size, 0);
}


/* p: behind the quotation mark of a string that has been read */

static size_t
ngx_derp_json_decode(u_char *p, u_char *text, size_t size, ngx_uint_t fold)
{
    size_t      len;
    ngx_uint_t  c;

    for (len = 0; *p != '"'; len++) {

        if (len == size) {
            return size + 1;
        }

        c = ngx_derp_json_char(&p);

        if (fold) {
            c = ngx_derp_json_fold(c);
        }

        text[len] = c > 0x7f ? 0xff : c;
    }

    return len;
}


/* foldName(), as far as it leads to ASCII, but to lower case */

static ngx_uint_t
ngx_derp_json_fold(ngx_uint_t c)
{
    if (c > 0x7f) {
        return c == NGX_DERP_JSON_LONG_S ? 's'
               : c == NGX_DERP_JSON_KELVIN ? 'k' : c;
    }

    return ngx_tolower(c);
}


/*
 * The next character of a string that has been read: a quotation mark is
 * behind it, so that bytes may be looked at one by one.  Of what is beyond
 * ASCII and not written as an escape only two are put together, the others are
 * bytes.
 */

static ngx_uint_t
ngx_derp_json_char(u_char **p)
{
    u_char  *s;

    s = *p;

    if (s[0] == '\\') {
        *p += s[1] == 'u' ? 6 : 2;
        return ngx_derp_json_unescape(s + 1);
    }

    if (s[0] == 0xc5 && s[1] == 0xbf) {
        *p += 2;
        return NGX_DERP_JSON_LONG_S;
    }

    if (s[0] == 0xe2 && s[1] == 0x84 && s[2] == 0xaa) {
        *p += 3;
        return NGX_DERP_JSON_KELVIN;
    }

    *p += 1;

    return s[0];
}


static ngx_uint_t
ngx_derp_json_unescape(u_char *p)
{
    ngx_uint_t  i, c;

    switch (*p) {

    case 'b':
        return '\b';

    case 'f':
        return '\f';

    case 'n':
        return '\n';

    case 'r':
        return '\r';

    case 't':
        return '\t';

    case 'u':
        c = 0;

        for (i = 1; i < 5; i++) {
            c = c * 16 + (p[i] <= '9' ? p[i] - '0' : (p[i] | 0x20) - 'a' + 10);
        }

        return c;

    default:
        return *p;
    }
}
