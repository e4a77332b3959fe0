
/*
 * Files with keys.
 */


#include "ngx_http_derp_key_file.h"
#include "ngx_derp_key_file.h"


#define NGX_HTTP_DERP_KEY_FILE_MAX  4096


static ssize_t ngx_http_derp_read_file(ngx_conf_t *cf, ngx_str_t *file,
    u_char *buf);
static ngx_int_t ngx_http_derp_make_key(ngx_conf_t *cf, ngx_str_t *file,
    u_char *key);
static ngx_int_t ngx_http_derp_check_folder(ngx_conf_t *cf, ngx_str_t *file);
static ngx_int_t ngx_http_derp_write_file(ngx_conf_t *cf, ngx_str_t *file,
    u_char *data, size_t len);
static ngx_int_t ngx_http_derp_sync_folder(ngx_conf_t *cf, ngx_str_t *file);
static u_char *ngx_http_derp_folder(ngx_conf_t *cf, ngx_str_t *file);


ngx_int_t
ngx_http_derp_read_key(ngx_conf_t *cf, ngx_str_t *file, u_char *key)
{
    char       *error;
    u_char      buf[NGX_HTTP_DERP_KEY_FILE_MAX];
    ssize_t     n;
    ngx_int_t   rc;

    n = ngx_http_derp_read_file(cf, file, buf);

    if (n == NGX_DECLINED) {
        return ngx_http_derp_make_key(cf, file, key);
    }

    if (n == NGX_ERROR) {
        return NGX_ERROR;
    }

    rc = ngx_derp_key_file_parse(key, buf, n, &error);

    ngx_derp_key_wipe(buf, sizeof(buf));

    if (rc != NGX_OK) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid key in \"%V\": %s, expected "
                           "{\"PrivateKey\":\"privkey:<64 hex digits>\"}",
                           file, error);
    }

    return rc;
}


ngx_int_t
ngx_http_derp_read_mesh_key(ngx_conf_t *cf, ngx_str_t *file, u_char *key)
{
    u_char      buf[NGX_HTTP_DERP_KEY_FILE_MAX], *p, *last;
    ssize_t     n;
    ngx_int_t   rc;

    n = ngx_http_derp_read_file(cf, file, buf);

    if (n == NGX_DECLINED) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, NGX_ENOENT,
                           "no mesh key file \"%V\", make it with "
                           "\"openssl rand -hex 32\"", file);
    }

    if (n < 0) {
        return NGX_ERROR;
    }

    p = buf;
    last = buf + n;

    while (p < last && isspace(*p)) {
        p++;
    }

    while (p < last && isspace(last[-1])) {
        last--;
    }

    rc = ngx_derp_key_parse(key, p, last - p);

    if (rc == NGX_OK && ngx_derp_key_is_zero(key)) {
        rc = NGX_ERROR;
    }

    ngx_derp_key_wipe(buf, sizeof(buf));

    if (rc != NGX_OK) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid mesh key in \"%V\", expected 64 hex digits "
                           "that are not all zero", file);
    }

    return rc;
}


/* NGX_DECLINED: there is no such file. */

static ssize_t
ngx_http_derp_read_file(ngx_conf_t *cf, ngx_str_t *file, u_char *buf)
{
    ssize_t          n;
    ngx_fd_t         fd;
    ngx_err_t        err;
    ngx_file_info_t  fi;

    fd = ngx_open_file(file->data, NGX_FILE_RDONLY, NGX_FILE_OPEN, 0);

    if (fd == NGX_INVALID_FILE) {
        err = ngx_errno;

        if (err == NGX_ENOENT) {
            return NGX_DECLINED;
        }

        ngx_conf_log_error(NGX_LOG_EMERG, cf, err, ngx_open_file_n
                           " \"%V\" failed", file);
        return NGX_ERROR;
    }

    n = NGX_ERROR;

    if (ngx_fd_info(fd, &fi) == NGX_FILE_ERROR) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, ngx_errno, ngx_fd_info_n
                           " \"%V\" failed", file);
        goto done;
    }

    if (!ngx_is_file(&fi) || ngx_file_size(&fi) > NGX_HTTP_DERP_KEY_FILE_MAX) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"%V\" is no file with a key", file);
        goto done;
    }

    if (fi.st_mode & (S_IROTH|S_IWOTH)) {
        ngx_conf_log_error(NGX_LOG_WARN, cf, 0,
                           "\"%V\" is accessible to everybody, "
                           "it should have a mode of 0600", file);
    }

    n = ngx_read_fd(fd, buf, NGX_HTTP_DERP_KEY_FILE_MAX);

    if (n == -1) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, ngx_errno, ngx_read_fd_n
                           " \"%V\" failed", file);
        n = NGX_ERROR;
    }

done:

    if (ngx_close_file(fd) == NGX_FILE_ERROR) {
        ngx_conf_log_error(NGX_LOG_ALERT, cf, ngx_errno, ngx_close_file_n
                           " \"%V\" failed", file);
    }

    return n;
}


static ngx_int_t
ngx_http_derp_make_key(ngx_conf_t *cf, ngx_str_t *file, u_char *key)
{
    u_char     data[NGX_DERP_KEY_FILE_LEN];
    ngx_int_t  rc;

    ngx_derp_key_generate(key);

    if (ngx_test_config) {
        return ngx_http_derp_check_folder(cf, file);
    }

    ngx_derp_key_file_json(data, key);

    rc = ngx_http_derp_write_file(cf, file, data, sizeof(data));

    ngx_derp_key_wipe(data, sizeof(data));

    if (rc == NGX_OK) {
        ngx_conf_log_error(NGX_LOG_NOTICE, cf, 0,
                           "made a new key in \"%V\"", file);
    }

    return rc;
}


/* What a start would fail for is to fail a test of the configuration too. */

static ngx_int_t
ngx_http_derp_check_folder(ngx_conf_t *cf, ngx_str_t *file)
{
    u_char  *folder;

    folder = ngx_http_derp_folder(cf, file);
    if (folder == NULL) {
        return NGX_ERROR;
    }

    if (access((char *) folder, W_OK|X_OK) == -1) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, ngx_errno,
                           "key file \"%V\" cannot be made", file);
        return NGX_ERROR;
    }

    return NGX_OK;
}


/* Whole or not at all: what a crash leaves half done has another name. */

static ngx_int_t
ngx_http_derp_write_file(ngx_conf_t *cf, ngx_str_t *file, u_char *data,
    size_t len)
{
    size_t     size;
    u_char    *temp;
    ngx_fd_t   fd;

    size = file->len + sizeof(".new");

    temp = ngx_pnalloc(cf->pool, size);
    if (temp == NULL) {
        return NGX_ERROR;
    }

    (void) ngx_snprintf(temp, size, "%V.new%Z", file);

    (void) ngx_delete_file(temp);

    fd = ngx_open_file(temp, NGX_FILE_WRONLY, NGX_FILE_CREATE_OR_OPEN|O_EXCL,
                       NGX_FILE_OWNER_ACCESS);

    if (fd == NGX_INVALID_FILE) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, ngx_errno, ngx_open_file_n
                           " \"%s\" failed", temp);
        return NGX_ERROR;
    }

    if (ngx_write_fd(fd, data, len) != (ssize_t) len) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, ngx_errno, ngx_write_fd_n
                           " \"%s\" failed", temp);
        goto failed;
    }

    if (fsync(fd) == -1) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, ngx_errno,
                           "fsync() \"%s\" failed", temp);
        goto failed;
    }

    if (ngx_close_file(fd) == NGX_FILE_ERROR) {
        ngx_conf_log_error(NGX_LOG_ALERT, cf, ngx_errno, ngx_close_file_n
                           " \"%s\" failed", temp);
    }

    if (ngx_rename_file(temp, file->data) == NGX_FILE_ERROR) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, ngx_errno, ngx_rename_file_n
                           " \"%s\" to \"%V\" failed", temp, file);
        (void) ngx_delete_file(temp);
        return NGX_ERROR;
    }

    return ngx_http_derp_sync_folder(cf, file);

failed:

    (void) ngx_close_file(fd);
    (void) ngx_delete_file(temp);

    return NGX_ERROR;
}


/* The file's new name is as safe as its contents only after this. */

static ngx_int_t
ngx_http_derp_sync_folder(ngx_conf_t *cf, ngx_str_t *file)
{
    u_char    *folder;
    ngx_fd_t   fd;
    ngx_int_t  rc;

    folder = ngx_http_derp_folder(cf, file);
    if (folder == NULL) {
        return NGX_ERROR;
    }

    fd = ngx_open_file(folder, NGX_FILE_RDONLY, NGX_FILE_OPEN, 0);

    if (fd == NGX_INVALID_FILE) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, ngx_errno, ngx_open_file_n
                           " \"%s\" failed", folder);
        return NGX_ERROR;
    }

    rc = NGX_OK;

    /* not every file system can do it */

    if (fsync(fd) == -1 && ngx_errno != NGX_EINVAL) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, ngx_errno,
                           "fsync() \"%s\" failed", folder);
        rc = NGX_ERROR;
    }

    (void) ngx_close_file(fd);

    return rc;
}


/* The path up to the last slash of a full name, which the caller may change. */

static u_char *
ngx_http_derp_folder(ngx_conf_t *cf, ngx_str_t *file)
{
    u_char  *folder, *p;

    folder = ngx_pnalloc(cf->pool, file->len + 1);
    if (folder == NULL) {
        return NULL;
    }

    p = ngx_cpymem(folder, file->data, file->len);

    while (p > folder + 1 && p[-1] != '/') {
        p--;
    }

    *p = '\0';

    return folder;
}
