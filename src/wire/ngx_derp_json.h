
/*
 * JSON of an object whose members are known, as Go's encoding/json decodes it
 * into a struct.  The text is read once, where it lies; what is in a member
 * that is not known is only checked, and no memory is taken.
 *
 * Every function may be called in any process.
 */


#ifndef _NGX_DERP_JSON_H_INCLUDED_
#define _NGX_DERP_JSON_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>


/* maxNestingDepth of encoding/json's scanner.go: objects and arrays */
#define NGX_DERP_JSON_DEPTH  10000


typedef struct {
    /* in lower case, of at most 16 bytes; the last field has none */
    ngx_str_t     name;

    /*
     * The value as it is written, which is one: its first byte says of what
     * kind it is ('n': null), and a string has its quotation marks.  NGX_ERROR
     * if it will not do.
     */
    ngx_int_t   (*handler)(ngx_str_t *value, void *data);

    /* says so, where the handler does */
    char         *error;
} ngx_derp_json_field_t;


/*
 * Reads len bytes of JSON as json.Unmarshal() does, and hands each member of
 * the outermost object that is in fields to its handler, with data.  Names are
 * compared as foldName() folds them, without regard to case; a member that
 * comes again is handed over again; null in place of the object is one without
 * members.  A few nanoseconds a byte, whatever the bytes.
 *
 * NGX_DECLINED where Go refuses what is not JSON, is nested deeper than
 * NGX_DERP_JSON_DEPTH, or is not an object, and where a handler does; *error is
 * then a constant string that says why.
 */
ngx_int_t ngx_derp_json_read(const ngx_derp_json_field_t *fields, u_char *p,
    size_t len, void *data, char **error);

/*
 * Writes what a string means, as unquoteBytes() does, into text, of size bytes;
 * but in place of each character beyond ASCII there are bytes above 0x7f.
 * Returns its length; size + 1 if the value is longer than that or no string.
 */
size_t ngx_derp_json_text(ngx_str_t *value, u_char *text, size_t size);


#endif /* _NGX_DERP_JSON_H_INCLUDED_ */
