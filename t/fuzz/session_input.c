
/*
 * The input, byte by byte.  Behind its end there are zeroes.
 */


#include "session.h"


ngx_uint_t
fuzz_byte(fuzz_input_t *in)
{
    return in->p < in->last ? *in->p++ : 0;
}


ngx_uint_t
fuzz_short(fuzz_input_t *in)
{
    ngx_uint_t  high;

    high = fuzz_byte(in);

    return high << 8 | fuzz_byte(in);
}


size_t
fuzz_len(fuzz_input_t *in)
{
    size_t  n;

    n = fuzz_byte(in);

    return ngx_min(n, (size_t) (in->last - in->p));
}


size_t
fuzz_size(fuzz_input_t *in)
{
    size_t  n;

    n = fuzz_short(in);

    return n >= 0xfff0 ? n - 0xfff0 + NGX_DERP_MAX_PACKET - 8 : n;
}
