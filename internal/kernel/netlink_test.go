package kernel

import (
	"encoding/binary"
	"errors"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// reply builds a netlink message as the kernel sends one.
func reply(typ uint16, seq uint32, payload []byte) []byte {
	msg := appendMessage(nil, seq, request{payload: payload})
	binary.NativeEndian.PutUint16(msg[4:], typ)
	return msg
}

func acknowledge(seq uint32, errno unix.Errno) []byte {
	return reply(unix.NLMSG_ERROR, seq, slices.Concat(
		binary.NativeEndian.AppendUint32(nil, uint32(-int32(errno))), make([]byte, unix.NLMSG_HDRLEN)))
}

func TestParseAnswers(t *testing.T) {
	t.Parallel()
	answers := make([]answer, 3)
	done, err := parseAnswers(slices.Concat(
		acknowledge(6, unix.EIO), // of an earlier question
		reply(256, 8, []byte("abc")), acknowledge(9, 0),
		acknowledge(7, unix.ENOENT),
	), 7, answers, new([]byte))
	if err != nil || done != 3 || !errors.Is(answers[0].err, unix.ENOENT) || string(answers[1].data) != "abc" ||
		answers[1].err != nil || answers[2].err != nil || answers[2].data != nil {
		t.Errorf("%d, %v: %+v", done, err, answers)
	}
	if _, err := parseAnswers(acknowledge(7, unix.EPERM), 7, answers, new([]byte)); !errors.Is(err, unix.EPERM) {
		t.Errorf("not permitted: %v", err)
	}
	ok := acknowledge(7, 0)
	for name, data := range map[string][]byte{
		"half a header":    ok[:8],
		"length 0":         make([]byte, 16),
		"overrun":          ok[:len(ok)-4],
		"an errno is less": reply(unix.NLMSG_ERROR, 7, []byte{1, 2}),
	} {
		if _, err := parseAnswers(data, 7, answers, new([]byte)); !errors.Is(err, errTruncated) {
			t.Errorf("%s: %v, want errTruncated", name, err)
		}
	}
}

func FuzzParseAnswers(f *testing.F) {
	f.Add(slices.Concat(reply(256, 7, []byte("abc")), acknowledge(7, 0), acknowledge(8, unix.EEXIST)))
	f.Add(acknowledge(7, unix.EPERM))
	f.Add(make([]byte, 16))
	f.Fuzz(func(t *testing.T, data []byte) {
		before := slices.Clone(data)
		if done, _ := parseAnswers(data, 7, make([]answer, 2), new([]byte)); done < 0 || done > len(data)/unix.NLMSG_HDRLEN {
			t.Fatalf("%d answers in %d bytes", done, len(data))
		}
		if !slices.Equal(data, before) {
			t.Fatal("the messages were changed")
		}
	})
}

// TestSocketEntry reads back what would be told to the kernel of a socket.
func TestSocketEntry(t *testing.T) {
	t.Parallel()
	both := FlagLiberal | FlagSACKPermitted | FlagWindowScale
	usual := StatusSeenReply | StatusAssured | StatusConfirmed
	s := Socket{
		Local: testV4.Original.Dst, Remote: testV4.Original.Src, Inbound: true,
		WindowScale: true, SACK: true, LocalWScale: 10, RemoteWScale: 7,
	}
	out := s
	out.Inbound, out.Local, out.Remote = false, testV6.Original.Src, testV6.Original.Dst
	plain := Socket{Local: s.Local, Remote: s.Remote, Inbound: true, Closing: true}
	huge := s
	huge.LocalWScale, huge.RemoteWScale = 15, 255
	for name, tt := range map[string]struct {
		socket Socket
		want   Conn
	}{
		"inbound": {s, Conn{
			Original: testV4.Original, Reply: testV4.Original.Reverse(), State: TCPEstablished, Timeout: time.Hour,
			WScaleOriginal: 7, WScaleReply: 10, FlagsOriginal: both, FlagsReply: both,
		}},
		"outbound": {out, Conn{
			Original: testV6.Original, Reply: testV6.Reply, State: TCPEstablished, Timeout: time.Hour,
			WScaleOriginal: 10, WScaleReply: 7, FlagsOriginal: both, FlagsReply: both,
		}},
		"closing, without options": {plain, Conn{
			Original: testV4.Original, Reply: testV4.Original.Reverse(), State: TCPLastAck, Timeout: closingTimeout,
			FlagsOriginal: FlagLiberal, FlagsReply: FlagLiberal,
		}},
		"impossible scales": {huge, Conn{
			Original: testV4.Original, Reply: testV4.Original.Reverse(), State: TCPEstablished, Timeout: time.Hour,
			WScaleOriginal: 14, WScaleReply: 14, FlagsOriginal: both, FlagsReply: both,
		}},
	} {
		tt.want.Status, tt.want.transport = usual, unix.IPPROTO_TCP
		if got, err := parseConn(tt.socket.entry(time.Hour).creating()); err != nil || got != tt.want {
			t.Errorf("%s:\n%+v, %v; want\n%+v", name, got, err, tt.want)
		}
	}
}
