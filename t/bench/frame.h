
/*
 * Frames, as far as a bench needs them.
 */


#ifndef _FRAME_H_INCLUDED_
#define _FRAME_H_INCLUDED_


#include <arpa/inet.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/types.h>


#define KEY_LEN         32
#define HEADER_LEN      5
#define MAX_PACKET      65536
#define MAX_FRAME       (HEADER_LEN + KEY_LEN + MAX_PACKET)

#define SERVER_KEY      0x01
#define CLIENT_INFO     0x02
#define SERVER_INFO     0x03
#define SEND_PACKET     0x04
#define RECV_PACKET     0x05
#define PEER_GONE       0x08
#define PEER_PRESENT    0x09
#define WATCH_CONNS     0x10


static inline void
put_header(u_char *p, int type, size_t len)
{
    uint32_t  n;

    n = htonl(len);

    p[0] = type;
    memcpy(p + 1, &n, 4);
}


/* of the body, from a frame's header */

static inline size_t
get_length(u_char *p)
{
    uint32_t  n;

    memcpy(&n, p + 1, 4);

    return ntohl(n);
}


#endif /* _FRAME_H_INCLUDED_ */
