package interop

import (
	"fmt"
	"testing"

	"tailscale.com/types/key"
)

// Of two connections with one key the newest is used, and then whichever spoke
// last; neither is closed, and the key leaves with the second.
func TestDuplicates(t *testing.T) {
	forWorkers(t, workerCounts, func(t *testing.T, workers int) {
		r := startTarget(t, options{workers: workers})
		s, priv := connect(t, r, "s", on(0)), key.NewNode()
		c1 := connect(t, r, "c1", as(priv), on(0))
		fence(t, s, c1)
		c2 := connect(t, r, "c2", as(priv), on(1))
		fence(t, s, c2)

		for range 20 { // a fight
			c1.sync(t)
			fence(t, s, c1)
			c2.sync(t)
			fence(t, s, c2)
		}
		fence(t, c1, s) // a packet is as good a word as a ping
		fence(t, s, c1)
		fence(t, c2, s)
		fence(t, s, c2)

		c2.close()
		reaches(t, s, c1)
		c1.close()
		s.want(t, gone(c1)) // and not when c2 left
	})
}

// The one that is not in use leaves, and nothing changes.
func TestDuplicateIdleLeaves(t *testing.T) {
	forWorkers(t, workerCounts, func(t *testing.T, workers int) {
		r := startTarget(t, options{workers: workers})
		s, priv := connect(t, r, "s", on(0)), key.NewNode()
		for i := range 10 {
			c1 := connect(t, r, "c1", as(priv), on(i))
			c2 := connect(t, r, "c2", as(priv), on(i+1))
			c1.close()
			fence(t, s, c2)
			fence(t, s, c2)
			c2.close()
		}
		fence(t, s, s) // it received from none of them
	})
}

// With three, the one used before takes over each time.
func TestThreeDuplicates(t *testing.T) {
	forWorkers(t, workerCounts, func(t *testing.T, workers int) {
		r := startTarget(t, options{workers: workers})
		s, priv := connect(t, r, "s", on(0)), key.NewNode()
		var c [3]*client
		for i := range c {
			c[i] = connect(t, r, fmt.Sprintf("c%d", i), as(priv), on(i))
			fence(t, s, c[i])
		}
		for _, i := range []int{0, 1, 0} {
			c[i].sync(t)
			fence(t, s, c[i])
		}
		c[0].close()
		reaches(t, s, c[1])
		c[1].close()
		reaches(t, s, c[2])
		if strays := c[2].pending(); len(strays) > 0 {
			t.Errorf("and %s", describe(strays[0]))
		}
	})
}

// To have connected later is to have been used later.
func TestThreeSilentDuplicates(t *testing.T) {
	oursOnly(t, "with three connections its fall-back forgets the second")
	forWorkers(t, workerCounts, func(t *testing.T, workers int) {
		r := startTarget(t, options{workers: workers})
		s, priv := connect(t, r, "s", on(0)), key.NewNode()
		var c [3]*client
		for i := range c {
			c[i] = connect(t, r, fmt.Sprintf("c%d", i), as(priv), on(i))
		}
		c[2].close()
		reaches(t, s, c[1])
		if strays := c[0].pending(); len(strays) > 0 {
			t.Errorf("the oldest received %s", describe(strays[0]))
		}
		c[1].close()
		reaches(t, s, c[0])
	})
}

// A watcher sees the first connection of a key come and the last one go.
func TestDuplicatePresence(t *testing.T) {
	oursOnly(t, "it announces every connection of a key")
	forWorkers(t, workerCounts, func(t *testing.T, workers int) {
		r := startTarget(t, options{workers: workers, mesh: true})
		w := connect(t, r, "w", on(0), watching)
		w.want(t, present(w, meshPeer))
		s, priv := connect(t, r, "s", on(0)), key.NewNode()
		w.want(t, present(s, regular))
		c1 := connect(t, r, "c1", as(priv), on(0))
		w.want(t, present(c1, regular))
		connect(t, r, "c2", as(priv), on(1))
		c3 := connect(t, r, "c3", as(priv), on(2))
		c3.sync(t)
		c3.close() // it was in use, so that its end can be told from outside
		reaches(t, s, connect(t, r, "c4", as(priv), on(3)))

		x := connect(t, r, "x", on(1))
		w.want(t, present(x, regular))
	})
}

// The scenarios of upstream's TestServerDupClients, where the last writer is
// the active one, from outside.
func TestDuplicateScenarios(t *testing.T) {
	forWorkers(t, workerCounts, func(t *testing.T, workers int) {
		r := startTarget(t, options{workers: workers})
		s := connect(t, r, "s", on(0))
		scenario := func(name string, f func(t *testing.T, appear func(i int) *client)) {
			t.Run(name, func(t *testing.T) {
				priv := key.NewNode()
				f(t, func(i int) *client {
					return connect(t, r, fmt.Sprintf("c%d", i), as(priv), on(i-1))
				})
			})
		}
		scenario("one_comes_and_goes", func(t *testing.T, appear func(i int) *client) {
			c1 := appear(1)
			fence(t, s, c1)
			fence(t, c1, s)
			c1.close()
			s.want(t, gone(c1))
		})
		// The first is as good as dead, and ends when the second is there.
		scenario("small_overlap_replacement", func(t *testing.T, appear func(i int) *client) {
			c1 := appear(1)
			fence(t, c1, s)
			c2 := appear(2)
			fence(t, s, c2)
			c1.close()
			fence(t, s, c2)
			fence(t, c2, s)
			c2.close()
			s.want(t, gone(c2))
		})
		scenario("concurrent_dups_last_writer", func(t *testing.T, appear func(i int) *client) {
			c1, c2 := appear(1), appear(2)
			for range 10 {
				fence(t, c1, s)
				fence(t, s, c1)
				fence(t, c2, s)
				fence(t, s, c2)
			}
			c1.wantAlive(t) // nobody is disabled
			c2.close()
			reaches(t, s, c1)
			fence(t, c1, s)
			c1.close()
			s.want(t, gone(c1))
		})
		// A, B, C, and A again.
		scenario("concurrent_dups_three_parties", func(t *testing.T, appear func(i int) *client) {
			c1, c2, c3 := appear(1), appear(2), appear(3)
			for _, c := range []*client{c1, c2, c3, c1} {
				fence(t, c, s)
				fence(t, s, c)
			}
			c1.close()
			reaches(t, s, c3)
			c2.wantAlive(t)
			c3.close()
			reaches(t, s, c2)
			c2.close()
			s.want(t, gone(c2))
		})
		// The last to come is not the last to speak when it leaves.
		scenario("activity_promotes_primary", func(t *testing.T, appear func(i int) *client) {
			c1, c2, c3 := appear(1), appear(2), appear(3)
			fence(t, s, c3)
			fence(t, c2, s)
			fence(t, s, c2)
			c3.close()
			fence(t, s, c2)
			fence(t, s, c2)
			c2.close()
			reaches(t, s, c1)
			c1.close()
			s.want(t, gone(c1))
		})
	})
}
