
/*
 * That keys are compared in constant time: in valgrind, to which the bytes of
 * the keys are undefined, and which tells of every branch and every address
 * that depends on them.
 */


#include "model.h"

#include <stdio.h>
#include <valgrind/memcheck.h>


static u_char  constant_a[NGX_DERP_KEY_LEN], constant_b[NGX_DERP_KEY_LEN];


/* how many errors valgrind has told of by now; what they say may be known */

static unsigned
constant_errors(ngx_uint_t *result)
{
    (void) VALGRIND_MAKE_MEM_DEFINED(result, sizeof(ngx_uint_t));

    return VALGRIND_COUNT_ERRORS;
}


static ngx_uint_t
constant_naive(u_char *a, u_char *b)
{
    ngx_uint_t  i;

    for (i = 0; i < NGX_DERP_KEY_LEN; i++) {
        if (a[i] != b[i]) {
            return 0;
        }
    }

    return 1;
}


int
main(void)
{
    unsigned    before, naive;
    ngx_uint_t  equal, zero;

    model_assert(RUNNING_ON_VALGRIND, "this is to be run in valgrind");
    model_assert(ngx_derp_key_init() == NGX_OK, "no randomness");

    ngx_memset(constant_a, 0x5a, sizeof(constant_a));
    ngx_memset(constant_b, 0x5a, sizeof(constant_b));
    constant_b[3] = 0;

    (void) VALGRIND_MAKE_MEM_UNDEFINED(constant_a, sizeof(constant_a));

    equal = ngx_derp_key_equal(constant_a, constant_b);
    model_assert(constant_errors(&equal) == 0, "of ngx_derp_key_equal()");

    zero = ngx_derp_key_is_zero(constant_a);
    model_assert(constant_errors(&zero) == 0, "of ngx_derp_key_is_zero()");

    /* and valgrind would have seen it */

    before = constant_errors(&zero);
    equal += constant_naive(constant_a, constant_b);
    naive = constant_errors(&equal) - before;

    model_assert(naive != 0, "a comparison that stops is not noticed");

    printf("constant: keys are compared without a branch on what they hold "
           "(%u in a comparison that stops)\n", naive);

    return 0;
}
