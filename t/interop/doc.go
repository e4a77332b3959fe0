// Package interop drives a running relay with the official Tailscale packages:
// the client that users run (tailscale.com/derp/derphttp) and the server that
// they would otherwise run (tailscale.com/cmd/derper), both of one pinned
// version.  Everything here looks at the relay from outside.
//
// The environment says what is tested:
//
//	TEST_NGINX_BINARY  the nginx to start; else the one in PATH
//	TEST_DERP_MODULE   ngx_http_derp_module.so, an absolute path; empty when
//	                   the module is linked statically
//	TEST_DERP_TARGET   "derper" puts derper in the place of nginx, which shows
//	                   that a test asks only for what the protocol promises
//	TEST_DERP_SEED     repeats what a test of that seed did, as far as chance
//	                   was the test's own
//
// All that a run writes is below build/interop, in a folder for the run, which
// stays until the next if something failed.
package interop
