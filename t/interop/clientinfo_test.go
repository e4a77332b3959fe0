package interop

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"tailscale.com/derp"
	"tailscale.com/types/key"
)

// infoLogins is how many ClientInfos are tried besides those in infoSeeds.
const infoLogins = 2000

// infoSeeds are what the two decoders were seen or suspected to differ in.
// MESH is the mesh key of the run.
var infoSeeds = []string{
	``, ` `, `{}`, "\t\r\n {} \t\r\n", `{} {}`, `{},`, "{}\x00", "\ufeff{}", "\v{}", `[]`, `null`, ` null `,
	`nul`, `Null`, `true`, `0`, `"x"`, `[{}]`, `[{"version":"x"}]`, `{"a":1,}`, `{,}`, `{"a"}`, `{a:1}`, `{'a':1}`,
	`{"a":[1,]}`, `{"a":[,1]}`, `{"a":[}`, `{"a":[}]`, `{"a":{]}}`, `{"a":1 "b":2}`, `{"a"::1}`, `{"a":}`,
	`{"a":/*x*/1}`,

	`{"version":0}`, `{"version":-0}`, `{"version":9223372036854775807}`, `{"version":9223372036854775808}`,
	`{"version":-9223372036854775808}`, `{"version":-9223372036854775809}`, `{"version":99999999999999999999}`,
	`{"version":1e2}`, `{"version":1.0}`, `{"version":1E0}`, `{"version":02}`, `{"version":+2}`, `{"version":-}`,
	`{"version":"2"}`, `{"version":null}`, `{"version":true}`, `{"version":[]}`, `{"version":{}}`,
	`{"version":"2","version":2}`, `{"version":2,"version":"2"}`, `{"version":2,"version":null}`,

	`{"x":9223372036854775808}`, `{"x":-99999999999999999999999}`, `{"x":1e999}`, `{"x":-1e-999}`, `{"x":0e0}`,
	`{"x":1.}`, `{"x":.5}`, `{"x":1e}`, `{"x":1e+}`, `{"x":00}`, `{"x":-01}`, `{"x":0x1}`, `{"x":NaN}`,
	`{"x":1.5E+10}`, `{"x":-0.0e-0}`, `{"x":1-1}`, `{"x":1e1.5}`,

	`{"IsProber":true}`, `{"IsProber":false}`, `{"IsProber":null}`, `{"IsProber":1}`, `{"IsProber":"true"}`,
	`{"IsProber":[true]}`, `{"IsProber":{}}`, `{"isprober":true}`, `{"ISPROBER":true}`, `{"i\u0073prober":true}`,
	`{"i` + "\u017f" + `Prober":true}`, `{"I\u017fProber":true}`, `{"IsProber\u0000":true}`, `{"IsProber ":true}`,
	`{"I` + "\xc5" + `sProber":true}`, `{"IsProbe` + "\xf0" + `":true}`, `{"IsProber":true,"IsProber":null}`,
	`{"IsProber":true,"isprober":false}`, `{"IsProber":true,"isprober":false,"IsProber":true}`,
	`{"x":{"IsProber":true}}`, `{"x":[{"IsProber":true}],"IsProber":false}`, `{"x":"{\"IsProber\":true}"}`,
	`{"\u0069\u0073\u0050robe\u0072":true}`, `{"IsProber\ud800":true}`, `{"IsProber":True}`, `{"IsProber":tru}`,
	`{"IsProber":truee}`, `{"İsProber":true}`, `{"ısProber":true}`,
	`{"\u0169sProber":true}`, `{"` + "\u0169" + `sProber":true}`, `{"AppName\u0100":5}`, `{"\u016fAppName":5}`,
	`{"CanAckPings":true}`, `{"CanAc` + "\u212a" + `Pings":1}`, `{"CanAc\u212Apings":"x"}`, `{"CanAckPings":null}`,
	`{"CanAckPing":"x"}`, `{"CanAckPingss":"x"}`, `{"CanAckPings":[]}`,

	`{"AppName":"x"}`, `{"AppName":null}`, `{"AppName":5}`, `{"AppName":{}}`, `{"AppName":true}`, `{"AppName":""}`,
	`{"AppName":"\ud83d\ude00"}`, `{"AppName":"\ud800"}`, `{"AppName":"\udc00\ud800x"}`, `{"AppName":"\u0000"}`,
	`{"AppName":"` + "\xff\xfe" + `"}`, `{"AppName":"` + "\xc0\x80" + `"}`, `{"AppName":"` + "\xed\xa0\x80" + `"}`,
	`{"AppName":"` + "\x7f" + `"}`, `{"AppName":"` + "\x1f" + `"}`, "{\"AppName\":\"a\nb\"}", "{\"AppName\":\"\x00\"}",
	`{"AppName":"\x"}`, `{"AppName":"\'"}`, `{"AppName":"\u12g4"}`, `{"AppName":"\u12"}`, `{"AppName":"\U0041"}`,
	`{"AppName":"\b\f\n\r\t\/\\\""}`, `{"AppName":"\"}`, `{"AppName":"`, `{"AppName":"\`, `{"AppName":"\u`,
	`{"\u0000":1}`, `{"` + "\xff" + `":1}`, `{"":1}`, `{"\ud800":1}`, "\xff{}", `{"x":` + "\xc2\xa0" + `1}`,

	`{"meshKey":"MESH"}`, `{"MESHKEY":"MESH"}`, `{"mesh` + "\u212a" + `ey":"MESH"}`, `{"me` + "\u017f" + `hKey":"MESH"}`,
	`{"me\u017Fh\u212aey":"MESH"}`, `{"meshKey":null}`, `{"meshKey":""}`, `{"meshKey":5}`, `{"meshKey":[]}`,
	`{"meshKey":{}}`, `{"meshKey":true}`, `{"meshKey":"MESH0"}`, `{"meshKey":" MESH"}`, `{"meshKey":"MESH00"}`,
	`{"meshKey":"MESH\u0000"}`, `{"meshKey":["MESH"]}`, `{"meshKey":"MESH","meshKey":null}`,
	`{"meshKey":"MESH","meshkey":""}`, `{"x":{"meshKey":"MESH"}}`,
	`{"meshKey":"0000000000000000000000000000000000000000000000000000000000000000"}`,
	`{"meshKey":"` + strings.Repeat("0", 64) + `","meshKey":"MESH"}`,
	`{"meshKey":"MESH","meshKey":"` + strings.Repeat("f", 64) + `"}`,
	`{"meshKey":"MESH","IsProber":true,"AppName":"ngx_derp"}`,
	`{"meshKey":"` + strings.Repeat("g", 64) + `"}`, `{"meshKey":"` + strings.Repeat(`\u0161`, 64) + `"}`,
	`{"meshKey":"` + strings.Repeat(`\u0061`, 64) + `"}`,
	`{"meshKey":"` + strings.Repeat("é", 32) + `"}`, `{"meshKey":"` + strings.Repeat("F", 64) + `"}`,
}

// A member of the grammar's, and how its value is likely to be right.
var infoMembers = []struct {
	name   string
	values []string
}{
	{"version", []string{"2", "2", "null", "-0", "9223372036854775807"}},
	{"IsProber", []string{"true", "true", "false", "null"}},
	{"CanAckPings", []string{"true", "false", "null"}},
	{"AppName", []string{`"x"`, `"ngx_derp"`, `"\ud800\u0000"`, "null"}},
	{"meshKey", []string{`"MESH"`, `"MESH"`, `"` + strings.Repeat("0", 64) + `"`}},
}

// An infoGrammar makes ClientInfos, most of which are JSON.
type infoGrammar struct{ *rand.Rand }

func (g infoGrammar) oneIn(n int) bool { return g.IntN(n) == 0 }

func pick[T any](g infoGrammar, from ...T) T { return from[g.IntN(len(from))] }

func (g infoGrammar) space() string {
	if !g.oneIn(5) {
		return ""
	}
	if g.oneIn(50) {
		return pick(g, "\v", "\xa0", "\x00", "/")
	}
	return pick(g, " ", "\t", "\r\n", "  ")
}

func (g infoGrammar) repeat(max int, sep string, f func() string) string {
	parts := make([]string, g.IntN(max+1))
	for i := range parts {
		parts[i] = f()
	}
	return strings.Join(parts, sep)
}

func (g infoGrammar) value(depth int) string {
	switch n := g.IntN(9); {
	case n == 0 && depth > 0:
		return "{" + g.repeat(3, ",", func() string {
			return g.space() + g.str() + g.space() + ":" + g.space() + g.value(depth-1) + g.space()
		}) + g.space() + "}"
	case n == 1 && depth > 0:
		return "[" + g.repeat(4, ",", func() string { return g.space() + g.value(depth-1) + g.space() }) + "]"
	case n == 2 && g.oneIn(20):
		levels := pick(g, 1000, 2048, 3000, 9998, 9999, 10000)
		return strings.Repeat("[", levels) + strings.Repeat("]", levels)
	case n < 5:
		return g.number()
	case n < 7:
		return g.str()
	}
	return pick(g, "true", "false", "null")
}

func (g infoGrammar) number() string {
	digits := func() string { return pick(g, "0", "00", "1", "7", "58", "999", "123456789") }
	s := pick(g, "", "", "-") + pick(g, "0", "1", "7", "18446744073709551616", "922337203685477580"+digits())
	if g.oneIn(4) {
		s += "." + digits()
	}
	if g.oneIn(4) {
		s += pick(g, "e", "E") + pick(g, "", "+", "-") + digits()
	}
	if g.oneIn(30) {
		s += pick(g, "0", ".", "e", "-")
	}
	return s
}

func (g infoGrammar) str() string {
	return `"` + g.repeat(8, "", func() string {
		return pick(g, "a", "IsProber", "é", "😀", "\u017f", "\u212a", `\n`, `\"`, `\\`, `\/`, `\u0000`, `\u00e9`,
			`\ud83d\ude00`, `\ud83d`, `\ude00`, `{`, `]`, `,`, "\xff", "\xe2\x84", "\x7f", "0", " ")
	}) + `"`
}

// name writes the name of a member in another way that may still be the same.
func (g infoGrammar) name(name string) string {
	var b strings.Builder
	for _, c := range name {
		switch {
		case g.oneIn(4):
			b.WriteString(strings.ToUpper(string(c)))
		case g.oneIn(12):
			fmt.Fprintf(&b, `\u%04x`, c)
		case c == 's' && g.oneIn(4):
			b.WriteString(pick(g, "\u017f", `\u017f`, `\u017F`))
		case (c == 'k' || c == 'K') && g.oneIn(4):
			b.WriteString(pick(g, "\u212a", `\u212a`, `\u212A`))
		case !g.oneIn(200):
			b.WriteRune(c)
		}
	}
	return `"` + b.String() + `"`
}

func (g infoGrammar) member() string {
	name, value := g.str(), ""
	switch m := pick(g, infoMembers...); {
	case g.oneIn(3):
		value = g.value(4)
	case g.oneIn(20):
		name, value = g.name(m.name), g.value(2)
	default:
		name, value = g.name(m.name), pick(g, m.values...)
	}
	return g.space() + name + g.space() + ":" + g.space() + value + g.space()
}

func (g infoGrammar) info() string {
	text := g.space() + "{" + g.repeat(6, ",", g.member) + "}" + g.space()
	if g.oneIn(4) {
		text = pick(g, infoSeeds...)
	}
	if g.oneIn(4) {
		text = g.mutate(text)
	}
	return text
}

// mutate changes, takes out, doubles or puts in a few bytes.
func (g infoGrammar) mutate(text string) string {
	b := []byte(text)
	for range 1 + g.IntN(2) {
		i := g.IntN(len(b) + 1)
		j := min(i+g.IntN(4), len(b))
		with := pick(g, "", "", string(b[i:j])+string(b[i:j]), string(rune(g.IntN(0x80))), `"`, ",", "}", "{}", `\`,
			"0", "-", "\xff", "null")
		b = bytes.Join([][]byte{b[:i], b[j:]}, []byte(with))
	}
	return string(b)
}

// What of a ClientInfo can be seen: whether it is let in, and as what.
type verdict struct {
	in    bool
	flags derp.PeerPresentFlags
}

// verdictOfDerper decodes as Server.recvClientKey() does, and then sees it as
// Server.isMeshPeer() and sclient.presentFlags() do.
func verdictOfDerper(text []byte) (v verdict) {
	info := new(derp.ClientInfo)
	if json.Unmarshal(text, info) != nil {
		return v
	}
	v.in = true
	if info.IsProber {
		v.flags |= derp.PeerPresentIsProber
	}
	if info.MeshKey.Equal(meshKey()) {
		v.flags |= derp.PeerPresentIsMeshPeer
	}
	if v.flags == 0 {
		v.flags = derp.PeerPresentIsRegular
	}
	return v
}

// infoPresence is what a watcher is told of clients.
type infoPresence struct {
	mu    sync.Mutex
	flags map[key.NodePublic]chan derp.PeerPresentFlags
}

func (p *infoPresence) of(k key.NodePublic) chan derp.PeerPresentFlags {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.flags[k] == nil {
		p.flags[k] = make(chan derp.PeerPresentFlags, 1)
	}
	return p.flags[k]
}

func (p *infoPresence) receive(m derp.ReceivedMessage) {
	if m, ok := m.(derp.PeerPresentMessage); ok {
		p.of(m.Key) <- m.Flags
	}
}

// verdictOfRelay logs in with the text as it is, and asks the watcher.
func verdictOfRelay(r *relay, server key.NodePublic, watcher *client, seen *infoPresence, text []byte) (v verdict, err error) {
	nc, err := net.Dial("tcp", r.addr(plain4))
	if err != nil {
		return v, err
	}
	defer nc.Close()
	nc.SetDeadline(time.Now().Add(patience))
	priv := key.NewNode()
	brw := bufio.NewReadWriter(bufio.NewReader(nc), bufio.NewWriter(nc))
	if err := upgrade(brw, r.url(plain4), false); err != nil {
		return v, err
	}
	n, err := derp.ReadFrameTypeHeader(brw.Reader, derp.FrameServerKey)
	if err == nil {
		_, err = brw.Discard(int(n))
	}
	if err == nil {
		box := priv.SealTo(server, text)
		err = derp.WriteFrame(brw.Writer, derp.FrameClientInfo, append(priv.Public().AppendTo(nil), box...))
	}
	if err != nil {
		return v, err
	}
	_, err = derp.ReadFrameTypeHeader(brw.Reader, derp.FrameServerInfo)
	if errors.Is(err, io.EOF) {
		return v, nil
	}
	if err != nil {
		return v, err
	}
	v.in = true
	select {
	case v.flags = <-seen.of(priv.Public()):
		return v, nil
	case <-watcher.ended:
		return v, errors.New("the watcher lost its connection")
	case <-time.After(patience):
		return v, errors.New("the watcher was not told")
	}
}

func infoTexts(t *testing.T) [][]byte {
	seed := uint64(21)
	if s := os.Getenv("TEST_DERP_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("TEST_DERP_SEED=%d", seed)
	texts := make([][]byte, 0, len(infoSeeds)+infoLogins)
	add := func(text string) {
		texts = append(texts, []byte(strings.ReplaceAll(text, "MESH", meshSecret())))
	}
	for _, text := range infoSeeds {
		add(text)
	}
	for _, levels := range []int{2048, 3000, 9999, 10000} {
		add(`{"x":` + strings.Repeat("[", levels) + strings.Repeat("]", levels) + `}`)
		add(`{"x":` + strings.Repeat(`{"":`, levels) + "0" + strings.Repeat("}", levels) + `}`)
	}
	g := infoGrammar{rand.New(rand.NewPCG(seed, 0))}
	for range infoLogins {
		add(g.info())
	}
	return texts
}

// Whom derper lets in is let in, as the same, and nobody else.
func TestClientInfos(t *testing.T) {
	oursOnly(t, "it is asked by its own decoder")
	r := startNginx(t, options{mesh: true})
	seen := &infoPresence{flags: map[key.NodePublic]chan derp.PeerPresentFlags{}}
	watcher := connect(t, r, "watcher", watching, handled(seen.receive))
	server := serverKey(t, r)
	texts := infoTexts(t)
	counts := map[verdict]int{}

	var mu sync.Mutex
	var wg sync.WaitGroup
	next := make(chan []byte)
	for range 16 {
		wg.Go(func() {
			for text := range next {
				want := verdictOfDerper(text)
				got, err := verdictOfRelay(r, server, watcher, seen, text)
				mu.Lock()
				counts[want]++
				if err != nil || got != want {
					t.Errorf("%.300q: %+v, %v; derper: %+v", text, got, err, want)
				}
				mu.Unlock()
			}
		})
	}
	for _, text := range texts {
		next <- text
	}
	close(next)
	wg.Wait()
	t.Logf("of %d: %v", len(texts), counts)

	// The inputs would be of no use if most were alike.
	for _, v := range []verdict{
		{}, {true, derp.PeerPresentIsRegular}, {true, derp.PeerPresentIsProber}, {true, derp.PeerPresentIsMeshPeer},
	} {
		if counts[v] < infoLogins/50 {
			t.Errorf("only %d inputs are %+v", counts[v], v)
		}
	}
}
