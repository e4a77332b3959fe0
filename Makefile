# "make help" lists the targets and the variables.

SHELL = /bin/bash
.SHELLFLAGS = -o pipefail -ec

# nginx takes it for sockets that it is to inherit.
unexport NGINX

NGINX_SRC ?=
STATIC    ?=
FAULTS    ?=
CC_OPT    ?= -O2 -fstack-protector-strong -D_FORTIFY_SOURCE=2
LD_OPT    ?= -Wl,-z,relro -Wl,-z,now
TESTS     ?=
MODULE    ?= $(CURDIR)

HTTPS_PORT ?= 8443
HTTP_PORT  ?= 8080
WORKERS    ?= 2
MODEL_SECS ?= 20
FUZZ_SECS  ?= 60
CHECK      ?=

ROWS   ?= table
SECS   ?= 4
ROUNDS ?= 1

SOAK ?= 30m

MATRIX_TREES ?=

BUILD_DEPS = gcc libc6-dev libssl-dev libpcre2-dev zlib1g-dev \
	libsodium-dev libjansson-dev

TEST_DEPS  = perl openssl libffi-platypus-perl libio-socket-ssl-perl \
	libtest-base-perl libtest-longstring-perl libtext-diff-perl liburi-perl \
	libwww-perl libhttp-message-perl liblist-moreutils-perl libipc-run-perl

# The versions of nginx whose sources .ci/fetch knows to get.

FETCHED = 1.22.1 1.26.3 1.28.3

ifeq ($(NGINX_SRC),)

ifneq ($(STATIC),)
$(error STATIC needs NGINX_SRC: the distribution has no sources to link with)
endif

# The distribution's nginx: its headers are enough for a dynamic module.

BUILD_DEPS  += nginx nginx-dev
TREE         = /usr/share/nginx/src
OUT          = build$(if $(FAULTS),/faults)
WORK         = build/$(if $(FAULTS),faults,distribution)
GOALS        = modules
NGINX_BINARY = /usr/sbin/nginx
NGX_FLAGS    = . $(TREE)/conf_flags

else

# A tree of nginx's sources: nginx is built along with the module.

FETCH        = $(filter $(FETCHED),$(NGINX_SRC))
TREE         = $(abspath $(if $(FETCH),build/source/nginx-)$(NGINX_SRC))
OUT          = build/$(notdir $(TREE))$(if $(STATIC),-static)$(if $(FAULTS),-faults)
WORK         = $(OUT)
GOALS        = binary $(if $(STATIC),,modules)
NGINX_BINARY = $(CURDIR)/$(OUT)/nginx

# Angie's has a name of its own, and is installed as "nginx", too.

BUILT        = $(WORK)/objs/$(if $(wildcard $(TREE)/src/core/angie.h),angie,nginx)

NGX_FLAGS    = NGX_CONF_FLAGS=(--error-log-path=stderr --with-debug \
	--with-threads --with-pcre-jit --with-http_ssl_module \
	--with-http_v2_module --with-http_realip_module \
	--with-http_auth_request_module --with-http_stub_status_module \
	--with-stream_ssl_module)

endif

DERP_MODULE = $(if $(STATIC),,$(CURDIR)/$(OUT)/ngx_http_derp_module.so)

# Fault points, at which tests kill a worker, are in a module of their own; it
# has so few slots that tests can use them up.

ifneq ($(FAULTS),)
override CC_OPT += -DNGX_DERP_FAULTS=1 -DNGX_DERP_SLOTS=128
endif

MODELS = TREE=$(TREE) OBJS=$(CURDIR)/$(WORK)/objs OUT=$(CURDIR)/build/model \
	SECS=$(MODEL_SECS)

# What nginx does all over is let be: loads without alignment, offsets from NULL.

SANITIZE  = -fsanitize=address,undefined
SANITIZED = NGINX_SRC=1.26.3 STATIC=1 FAULTS= OUT=build/check WORK=build/check \
	LD_OPT='$(SANITIZE)' \
	CC_OPT='-g -O1 -fno-omit-frame-pointer -DNGX_DEBUG_PALLOC=1 $(SANITIZE) \
		-fno-sanitize=alignment,pointer-overflow,nonnull-attribute \
		-fno-sanitize-recover=undefined'

define CONFIGURE
$(NGX_FLAGS)
$(firstword $(wildcard $(TREE)/configure) $(TREE)/auto/configure) \
	"$${NGX_CONF_FLAGS[@]}" --with-compat --with-stream --builddir=objs \
	--with-cc='$(CC)' --with-cc-opt='$(CC_OPT)' --with-ld-opt='$(LD_OPT)' \
	--add-$(if $(STATIC),,dynamic-)module=$(MODULE)
endef

export CONFIGURE NGINX_BINARY DERP_MODULE TESTS HTTPS_PORT HTTP_PORT WORKERS


.PHONY: build run test matrix chaos soak bench plot model fuzz check analyze deps \
	clean help FORCE
.DELETE_ON_ERROR:

build: $(WORK)/objs/Makefile ## Build the module (the default)
	@$(MAKE) $(if $(findstring jobserver,$(MAKEFLAGS)),,-j$(shell nproc)) \
		--no-print-directory -C $(WORK) -f objs/Makefile $(GOALS)
	$(if $(NGINX_SRC),install $(BUILT) $(OUT)/nginx)
	$(if $(STATIC),,install $(WORK)/objs/*.so $(OUT))
	@printf '%s\n' $(if $(DERP_MODULE),'load_module $(DERP_MODULE);') \
		'pid $(CURDIR)/$(WORK)/load.pid;' 'events { }' > $(WORK)/load.conf
	$(NGINX_BINARY) -t -q -e stderr -p $(CURDIR)/$(WORK) -c load.conf

run: ## Build and start a relay in the foreground
	@.ci/install $(BUILD_DEPS) openssl
	@$(MAKE) --no-print-directory build
	@.ci/serve

test: ## Build and run all tests
	@.ci/install $(BUILD_DEPS) $(TEST_DEPS)
	@$(MAKE) --no-print-directory build
	@.ci/test

matrix: ## Build for several versions of nginx and TLS libraries, test each
	@.ci/install $(BUILD_DEPS) $(TEST_DEPS)
	@.ci/matrix $(FETCHED) $(MATRIX_TREES)

chaos: deps ## Build and try what an operator fears, a little of each
	@.ci/install openssl iproute2 util-linux
	@$(MAKE) --no-print-directory build
	@$(MAKE) --no-print-directory build FAULTS=1
	@.ci/chaos

soak: deps ## The same for SOAK, with a summary at its end
	@.ci/install openssl iproute2 util-linux
	@$(MAKE) --no-print-directory build
	@$(MAKE) --no-print-directory build FAULTS=1
	@.ci/chaos $(SOAK)

bench: deps ## Build and measure, beside derper and the floor
	@.ci/install openssl python3
	@$(MAKE) --no-print-directory build build/bench/derpload build/bench/floor
	@t/bench/run --secs $(SECS) --rounds $(ROUNDS) $(ROWS)

plot: ## Draw what "make bench ROWS=all" measured
	@.ci/install python3-matplotlib
	@t/bench/plot

model: $(WORK)/objs/Makefile ## Run the shared memory's code in models of it
	$(MAKE) --no-print-directory -C t/model $(MODELS)

fuzz: deps ## Try hostile input, FUZZ_SECS of each sort
	@.ci/install clang
	@.ci/install libclang-rt-$$(clang -dumpversion | cut -d. -f1)-dev
	@$(MAKE) --no-print-directory $(WORK)/objs/Makefile
	@$(MAKE) --no-print-directory -C t/fuzz TREE=$(TREE) \
		OBJS=$(CURDIR)/$(WORK)/objs OUT=$(CURDIR)/build/fuzz SECS=$(FUZZ_SECS)

check: deps ## Run the tests with sanitizers, and a few in valgrind
	@.ci/install $(TEST_DEPS) valgrind
	@$(MAKE) --no-print-directory build
	@ASAN_OPTIONS=detect_leaks=0 $(MAKE) --no-print-directory build $(SANITIZED)
	@PLAIN_BINARY=$(NGINX_BINARY) PLAIN_MODULE=$(DERP_MODULE) \
		NGINX_BINARY=$(CURDIR)/build/check/nginx CHECK=$(CHECK) .ci/check
	@$(MAKE) --no-print-directory model
	@$(MAKE) --no-print-directory -C t/model $(MODELS) constant

analyze: deps ## Analyse the sources: gcc -fanalyzer, clang-tidy, cppcheck
	@.ci/install clang-tidy cppcheck
	@$(MAKE) --no-print-directory $(WORK)/objs/Makefile
	@TREE=$(TREE) OBJS=$(CURDIR)/$(WORK)/objs .ci/analyze

deps: ## Install the packages that a build needs
	@.ci/install $(BUILD_DEPS)

clean: ## Remove all that was built, fetched or written
	rm -rf build

help:
	@echo "Targets:"
	@sed -n 's/^\([a-z]*\):.*## /\1 /p' Makefile \
		| while read -r t text; do printf '  %-12s %s\n' "$$t" "$$text"; done
	@echo "Variables:"
	@echo "  NGINX_SRC    a directory with nginx's sources to build with; a version of"
	@echo "               $(FETCHED) is fetched (unset: the distribution's nginx)"
	@echo "  STATIC=1     link the module into that nginx"
	@echo "  TESTS        for \"make test\": only these of t/*.t"
	@echo "  CC_OPT       as nginx's --with-cc-opt; LD_OPT as --with-ld-opt"
	@echo "  MODEL_SECS   how long each model runs: $(MODEL_SECS)"
	@echo "  FUZZ_SECS    how long each target of \"make fuzz\" runs: $(FUZZ_SECS)"
	@echo "  CHECK=short  for \"make check\": two workers, and not what waits"
	@echo "  HTTPS_PORT, HTTP_PORT, WORKERS"
	@echo "               for \"make run\": $(HTTPS_PORT), $(HTTP_PORT), $(WORKERS)"
	@echo "  MATRIX_TREES for \"make matrix\": directories with other sources to build"
	@echo "               with, nginx's main branch or Angie's"
	@echo "  SOAK         for \"make soak\": how long, $(SOAK)"
	@echo "  ROWS, SECS, ROUNDS"
	@echo "               for \"make bench\": what to measure, how long, how often;"
	@echo "               \"t/bench/run --list all\" lists the rows"


# nginx's configure writes into the directory that it runs in: it is given one
# of its own.  It runs again after a change of config, of the tree, of flags or
# of the list of our files.

$(WORK)/objs/Makefile: $(MODULE)/config $(WORK)/configured
	cd $(WORK) && ln -sfn $(TREE)/auto $(TREE)/src . && eval "$$CONFIGURE"

$(WORK)/configured: $(TREE)/src/core/nginx.h FORCE
	@mkdir -p $(WORK)
	@{ stat -Lc %i.%Z $<; echo "$$CONFIGURE"; \
	   find $(MODULE)/src -name '*.[ch]' | sort; } > $@.new
	@cmp -s $@.new $@ && rm $@.new || mv $@.new $@

BENCH_CC = $(CC) -O2 -Wall -Wextra -Wno-unused-parameter -Werror

build/bench/derpload: $(addprefix t/bench/,derpload.c client.c client.h \
		frame.h measure.c measure.h)
	@mkdir -p $(@D)
	$(BENCH_CC) -o $@ $(filter %.c,$^) -lsodium -lssl -lcrypto -lm

build/bench/floor: t/bench/floor.c t/bench/frame.h
	@mkdir -p $(@D)
	$(BENCH_CC) -o $@ $< -lsodium -lssl -lcrypto


$(TREE)/src/core/nginx.h:
ifneq ($(FETCH),)
	@.ci/fetch nginx $(NGINX_SRC) $(TREE)
else
	@echo 'no nginx sources in "$(TREE)":' >&2
	@echo 'run "make deps", or name a tree with NGINX_SRC=dir' >&2
	@false
endif
