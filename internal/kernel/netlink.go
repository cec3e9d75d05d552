package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// maxBatch is how many requests go to the kernel at once. Their answers have to
// fit into the socket's receive buffer, whose default holds some hundreds.
const maxBatch = 32

// A request is one message to the kernel.
type request struct {
	typ     int    // of the message: [ctnetlink], or RTM_*
	flags   uint16 // beside NLM_F_REQUEST and, unless it is a question, NLM_F_ACK
	payload []byte // from the struct nfgenmsg, or rtmsg, on
	// question tells that the answer is an entry or an error, without an
	// acknowledgement of its own.
	question bool
}

// An answer is what the kernel said to one request.
type answer struct {
	err  error  // nil, or an errno
	data []byte // the entry that was asked for
}

// A dialogue sends requests to the kernel, many in one system call, which
// neither package of netlink that we use does.
type dialogue struct {
	fd   int
	name string // of the subsystem, for errors
	seq  uint32
	buf  []byte // what was received last
	out  []byte // what was sent last
	kept []byte // what answers hold, until the next question
}

// openDialogue begins one with ctnetlink.
func openDialogue() (*dialogue, error) { return dial(unix.NETLINK_NETFILTER, "ctnetlink") }

func dial(protocol int, name string) (*dialogue, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	d := &dialogue{fd: fd, name: name, buf: make([]byte, 64<<10)}
	// The kernel answers before it returns from sendto(2). The timeout is for a
	// kernel that does not.
	err = errors.Join(
		unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}),
		// So that nothing comes in that is not from the kernel
		// (netlink_getsockbyportid in net/netlink/af_netlink.c, 6.18).
		unix.Connect(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 2}),
		// An error does not bring our request back.
		unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1),
	)
	if err != nil {
		d.close()
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return d, nil
}

func (d *dialogue) close() { _ = unix.Close(d.fd) }

// ask sends at most [maxBatch] requests and returns an answer to each, which
// holds until the next ones are sent. The error concerns all of them; it is
// [fs.ErrPermission] without CAP_NET_ADMIN.
func (d *dialogue) ask(requests []request) ([]answer, error) {
	if len(requests) == 0 {
		return nil, nil
	}
	if len(requests) > maxBatch {
		return nil, fmt.Errorf("%s: %d requests at once", d.name, len(requests))
	}
	first := d.seq + 1
	d.out, d.kept = d.out[:0], d.kept[:0]
	for _, r := range requests {
		d.seq++
		d.out = appendMessage(d.out, d.seq, r)
	}
	if _, err := unix.Write(d.fd, d.out); err != nil {
		return nil, fmt.Errorf("%s: %w", d.name, err)
	}
	answers := make([]answer, len(requests))
	for open := len(requests); open > 0; {
		n, err := unix.Read(d.fd, d.buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", d.name, err)
		}
		done, err := parseAnswers(d.buf[:n], first, answers, &d.kept)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", d.name, err)
		}
		open -= done
	}
	return answers, nil
}

func appendMessage(out []byte, seq uint32, r request) []byte {
	out = binary.NativeEndian.AppendUint32(out, uint32(unix.NLMSG_HDRLEN+len(r.payload)))
	out = binary.NativeEndian.AppendUint16(out, uint16(r.typ))
	flags := unix.NLM_F_REQUEST | r.flags
	if !r.question {
		flags |= unix.NLM_F_ACK
	}
	out = binary.NativeEndian.AppendUint16(out, flags)
	out = binary.NativeEndian.AppendUint32(out, seq)
	out = binary.NativeEndian.AppendUint32(out, 0) // from: the kernel knows
	out = append(out, r.payload...)
	return append(out, make([]byte, -len(r.payload)&3)...)
}

// parseAnswers reads the netlink messages in data, which answer requests
// numbered from first on, and returns how many of them are settled. It copies
// the entries to the end of kept.
func parseAnswers(data []byte, first uint32, answers []answer, kept *[]byte) (done int, err error) {
	for len(data) > 0 {
		if len(data) < unix.NLMSG_HDRLEN {
			return done, errTruncated
		}
		size := binary.NativeEndian.Uint32(data)
		typ := binary.NativeEndian.Uint16(data[4:])
		index := binary.NativeEndian.Uint32(data[8:]) - first
		if size < unix.NLMSG_HDRLEN || uint64(size) > uint64(len(data)) {
			return done, errTruncated
		}
		payload := data[unix.NLMSG_HDRLEN:size]
		data = data[min((uint64(size)+3)&^3, uint64(len(data))):]
		if uint64(index) >= uint64(len(answers)) {
			continue // the rest of an earlier dialogue
		}
		if typ != unix.NLMSG_ERROR {
			// Entries come in answer to questions only, one to each.
			begin := len(*kept)
			*kept = append(*kept, payload...)
			answers[index].data = (*kept)[begin:len(*kept):len(*kept)]
			done++
			continue
		}
		if len(payload) < 4 {
			return done, errTruncated
		}
		done++
		answers[index].err = nil
		if errno := int32(binary.NativeEndian.Uint32(payload)); errno != 0 {
			answers[index].err = unix.Errno(-errno)
		}
		// Without the right, the kernel refuses all requests in one answer.
		if errors.Is(answers[index].err, unix.EPERM) {
			return done, answers[index].err
		}
	}
	return done, nil
}
