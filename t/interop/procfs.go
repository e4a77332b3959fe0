package interop

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// The kernel is asked for sockets by netlink, as ss does: /proc/net/tcp lists
// all there are, with tens of thousands whose time is yet to pass, and skips
// some when they change while it is read.  What follows is from
// linux/netlink.h, linux/sock_diag.h and linux/inet_diag.h.
const (
	netlinkSockDiag  = 4
	sockDiagByFamily = 20
	diagRequestLen   = 16 + 56
	diagInodeAt      = 4 + 48 + 16 // the last of a struct inet_diag_msg

	anyState    = 0xffffffff
	established = 1 << 1
)

// socketInode identifies the socket with these two ends; it is empty for as
// long as nobody has accepted the connection.
func socketInode(local, remote netip.AddrPort) (string, error) {
	inodes, err := askSockets(diagRequest(0, anyState, local, remote))
	if err != nil || len(inodes) == 0 || inodes[0] == "0" {
		return "", err
	}
	return inodes[0], nil
}

// dialers says which of the processes have connections to an IPv4 address,
// each as often as it has one.
func dialers(addr string, pids []int) ([]int, error) {
	remote := netip.MustParseAddrPort(addr)
	local := netip.AddrPortFrom(netip.IPv4Unspecified(), 0)
	// A dump goes by the ports alone; a reserved one is nobody else's.
	inodes, err := askSockets(diagRequest(syscall.NLM_F_DUMP, established, local, remote))
	var owners []int
	for _, inode := range inodes {
		if pid := socketOwner(inode, pids); pid != 0 {
			owners = append(owners, pid)
		}
	}
	return owners, err
}

func diagRequest(flags uint16, states uint32, local, remote netip.AddrPort) []byte {
	b := binary.NativeEndian.AppendUint32(nil, diagRequestLen)
	b = binary.NativeEndian.AppendUint16(b, sockDiagByFamily)
	b = binary.NativeEndian.AppendUint16(b, syscall.NLM_F_REQUEST|flags)
	b = append(b, make([]byte, 8)...) // sequence and port: there is but one
	family := byte(syscall.AF_INET)
	if local.Addr().Is6() {
		family = syscall.AF_INET6
	}
	b = append(b, family, syscall.IPPROTO_TCP, 0, 0)
	b = binary.NativeEndian.AppendUint32(b, states)
	b = binary.BigEndian.AppendUint16(b, local.Port())
	b = binary.BigEndian.AppendUint16(b, remote.Port())
	b = appendAddr(b, local)
	b = appendAddr(b, remote)
	b = append(b, 0, 0, 0, 0)                           // any interface
	return binary.NativeEndian.AppendUint64(b, 1<<64-1) // any cookie
}

func appendAddr(b []byte, ap netip.AddrPort) []byte {
	var room [16]byte
	copy(room[:], ap.Addr().AsSlice())
	return append(b, room[:]...)
}

func askSockets(req []byte) ([]string, error) {
	fd, err := syscall.Socket(syscall.AF_NETLINK, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, netlinkSockDiag)
	if err != nil {
		return nil, fmt.Errorf("no sock_diag in this kernel: %w", err)
	}
	defer syscall.Close(fd)
	limit := syscall.NsecToTimeval(int64(patience / time.Nanosecond))
	if err := syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &limit); err != nil {
		return nil, err
	}
	if err := syscall.Sendto(fd, req, 0, &syscall.SockaddrNetlink{Family: syscall.AF_NETLINK}); err != nil {
		return nil, fmt.Errorf("no sock_diag in this kernel: %w", err)
	}
	var inodes []string
	buf := make([]byte, 64<<10)
	for more := true; more; {
		n, _, err := syscall.Recvfrom(fd, buf, 0)
		if err != nil {
			return nil, fmt.Errorf("sock_diag: %w", err)
		}
		if inodes, more, err = readSockets(buf[:n], inodes); err != nil {
			return nil, err
		}
	}
	return inodes, nil
}

// readSockets takes one datagram of an answer.
func readSockets(answer []byte, inodes []string) (_ []string, more bool, err error) {
	msgs, err := syscall.ParseNetlinkMessage(answer)
	if err != nil {
		return nil, false, err
	}
	for _, m := range msgs {
		switch {
		case m.Header.Type == syscall.NLMSG_DONE:
			return inodes, false, nil
		case m.Header.Type == syscall.NLMSG_ERROR:
			errno := syscall.Errno(-int32(binary.NativeEndian.Uint32(m.Data)))
			if errno == syscall.ENOENT {
				return inodes, false, nil // no such socket
			}
			return nil, false, fmt.Errorf("sock_diag: %w", errno)
		case len(m.Data) < diagInodeAt+4:
			return nil, false, errors.New("sock_diag: short answer")
		}
		inode := binary.NativeEndian.Uint32(m.Data[diagInodeAt:])
		inodes = append(inodes, strconv.FormatUint(uint64(inode), 10))
		more = m.Header.Flags&syscall.NLM_F_MULTI != 0
	}
	return inodes, more, nil
}

// socketOwner says which of the processes has the socket open, 0 for none.
func socketOwner(inode string, pids []int) int {
	want := "socket:[" + inode + "]"
	for _, pid := range pids {
		dir := fmt.Sprintf("/proc/%d/fd", pid)
		fds, err := os.ReadDir(dir)
		if err != nil {
			continue // it has gone
		}
		for _, fd := range fds {
			if link, err := os.Readlink(dir + "/" + fd.Name()); err == nil && link == want {
				return pid
			}
		}
	}
	return 0
}

func parentOf(pid int) int {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// The name, in parentheses, may hold anything.
	_, rest, ok := strings.Cut(string(text), ") ")
	f := strings.Fields(rest)
	if !ok || len(f) < 2 {
		return 0
	}
	ppid, _ := strconv.Atoi(f[1])
	return ppid
}
