# lockstep. `make` builds everything into $(BUILD); sources are found by wildcard, so a new file needs no line here.
#   BUILD=dir  CC=gcc|clang  DIRS= T= (see unit)  SAN=address,undefined|thread  V=1 (show commands)  DESTDIR= PREFIX= (install)  SEEDS= SEED= (sim)  ROUNDS= SEED= (chaos)  PYTEST= (pg)
# Folder -> library -> program. A program is built once its main.c exists:
#   coordinator/main.c -> lockstepd      participant/main.c -> lockstep-agent   client/main.c -> lockstep
#   bench/main.c -> lockstep-bench       tests/sim/main.c -> lockstep-sim       client/lockstep*.c -> liblockstep.a, .so
# tests/unit/test_*.c: one cmocka program each; the other files of tests/unit are linked into all of them.
# tests/scenarios/main.c -> lockstep-scenarios, run by `make check` with tests/scenarios as its argument.

VERSION  := 0.1.0
BUILD    ?= build
PREFIX   ?= /usr/local
SEEDS    ?= 1000
ROUNDS   ?= 5
SEED     ?= 1
ifeq ($(origin CC),default)
CC       := gcc
endif
Q        := $(if $(V),,@)
B        := $(BUILD)
say       = @printf '  %-5s %s\n'

PACKAGES := libevent libevent_openssl libevent_pthreads openssl yaml-0.1 jansson libprotobuf-c libxxhash libpq libcurl
ifneq ($(MAKECMDGOALS),clean)
ifneq ($(shell pkg-config --exists $(PACKAGES) cmocka && command -v protoc-c >/dev/null && echo yes),yes)
$(error something is missing: run ./scripts/install-deps (with --check it only names the packages))
endif
endif
SYS_INC  := $(patsubst -I%,-isystem %,$(shell pkg-config --cflags-only-I $(PACKAGES)))
SYS_LIB  := $(shell pkg-config --libs $(PACKAGES)) -pthread -lm

WARN     := -Wall -Wextra -Werror -Wconversion -Wshadow -Wswitch-enum -Wstrict-prototypes -Wold-style-definition -Wformat=2 \
            -Wvla -Wcast-qual -Wmissing-prototypes -Wpointer-arith -Wundef -Wwrite-strings -Wdate-time \
            $(if $(findstring clang,$(CC))$(findstring ccc-,$(CC)),-Wno-string-conversion)
# Tests pass small literals about and look behind const: conversions are not checked there.
WARN_TEST := -Wno-conversion -Wno-sign-conversion -Wno-cast-qual -Wno-missing-prototypes
HARDEN   := -fstack-protector-strong -fstack-clash-protection $(if $(filter x86_64,$(shell uname -m)),-fcf-protection)
ifeq ($(SAN),)
OPT      := -O2 -g -D_FORTIFY_SOURCE=3 $(HARDEN)
else
OPT      := -O1 -g -fno-omit-frame-pointer -fsanitize=$(SAN) -fno-sanitize-recover=all
endif
# -fPIC serves the shared library and position-independent programs alike. Asserts stay on.
CFLAGS_ALL := -std=c11 -D_GNU_SOURCE -DLOCKSTEP_VERSION='"$(VERSION)"' -fPIC -fno-semantic-interposition -pthread $(OPT) $(WARN) \
            -I. -Iinclude -isystem $(B)/gen $(SYS_INC) $(CFLAGS)
LINK     := $(CC) -pie -Wl,-z,relro,-z,now,-z,noexecstack,--as-needed $(if $(SAN),-fsanitize=$(SAN)) $(LDFLAGS)

# ---- libraries: one per folder, main.c left out; common in two, so that pure code links without OpenSSL and libevent
PURE     := $(patsubst %,common/%.c,status ids statement frame text address)
DIRS     ?= coordinator/core coordinator/dlog coordinator/api coordinator participant/core participant/pg participant client \
            bench tests/sim tests/scenarios
srcs      = $(filter-out %/main.c,$(wildcard $(1)/*.c))
objs      = $(patsubst $(B)/obj/$(B)/%,$(B)/obj/%,$(patsubst %.c,$(B)/obj/%.o,$(1)))
libname   = $(B)/lib/lib$(subst /,-,$(1)).a
CLIENT   := $(if $(filter client,$(DIRS)),$(wildcard client/lockstep*.c))
TESTHELP := $(if $(filter none,$(T)),,$(filter-out tests/unit/test_%.c,$(wildcard tests/unit/*.c)))
lib_common-pure := $(wildcard $(PURE)) $(B)/gen/lockstep.pb-c.c
lib_common-io   := $(filter-out $(PURE),$(wildcard common/*.c))
lib_testhelp    := $(TESTHELP)
lib_liblockstep := $(CLIENT)
$(foreach d,$(DIRS),$(eval lib_$(subst /,-,$(d)) := $(filter-out $(CLIENT),$(call srcs,$(d)))))
LIBNAMES := $(foreach l,liblockstep testhelp $(subst /,-,$(DIRS)) common-io common-pure,$(if $(lib_$(l)),$(l)))
ALL_LIBS := $(LIBNAMES:%=$(B)/lib/lib%.a)
libs      = -Wl,--start-group $(filter %.a,$^) -Wl,--end-group $(SYS_LIB)

# ---- programs
PROGRAMS := $(if $(wildcard coordinator/main.c),lockstepd) $(if $(wildcard participant/main.c),lockstep-agent) \
            $(if $(wildcard client/main.c),lockstep) $(if $(wildcard bench/main.c),lockstep-bench)
TOOLS    := $(if $(wildcard tests/sim/main.c),lockstep-sim) $(if $(wildcard tests/scenarios/main.c),lockstep-scenarios)
SHARED   := $(if $(CLIENT),$(B)/liblockstep.so.0 $(B)/liblockstep.so $(B)/liblockstep.a)
TESTS    := $(patsubst tests/unit/%.c,$(B)/tests/%,$(wildcard $(patsubst %,tests/unit/%.c,$(or $(T),test_*))))

.PHONY: all libs check unit asan tsan tidy fmt install sim pg chaos cells clean FORCE fuzz fuzz-targets crash recovery
.DELETE_ON_ERROR:
.SECONDARY:
all: $(PROGRAMS:%=$(B)/%) $(TOOLS:%=$(B)/%) $(SHARED) $(ALL_LIBS) $(B)/libfault-disk.so $(B)/lockstep-lab

$(B)/lockstepd: $(B)/obj/coordinator/main.o $(ALL_LIBS)
$(B)/lockstep-agent: $(B)/obj/participant/main.o $(ALL_LIBS)
$(B)/lockstep: $(B)/obj/client/main.o $(ALL_LIBS)
$(B)/lockstep-bench: $(B)/obj/bench/main.o $(ALL_LIBS)
$(B)/lockstep-sim: $(B)/obj/tests/sim/main.o $(ALL_LIBS)
$(B)/lockstep-scenarios: $(B)/obj/tests/scenarios/main.o $(ALL_LIBS)
$(addprefix $(B)/,$(PROGRAMS) $(TOOLS)):
	$(say) LINK $@
	$(Q)$(LINK) -o $@ $(filter %.o,$^) $(libs)
# Under sanitizers, which own malloc, the linker leads our own allocations to tests/unit/nomem.h.
$(B)/tests/%nomem: LINK += $(if $(SAN),$(patsubst %,-Wl$(comma)--wrap=%,malloc calloc realloc free strdup abort))
$(B)/tests/%: $(B)/obj/tests/unit/%.o $(ALL_LIBS)
	$(Q)mkdir -p $(@D)
	$(Q)$(LINK) -o $@ $< $(libs) -lcmocka
$(B)/fuzz/%: $(B)/obj/tests/fuzz/fuzz_%.o $(B)/obj/tests/fuzz/mutate.o $(B)/obj/tests/unit/dlog_disk.o $(ALL_LIBS)
	$(Q)mkdir -p $(@D)
	$(Q)$(LINK) -fsanitize=fuzzer -o $@ $(filter %.o,$^) $(libs)
# The laboratory (docs/lab.md): `lockstep lab` starts what lies beside it.
$(B)/libfault-disk.so: scripts/faults/disk.c
	$(Q)mkdir -p $(@D); $(CC) -std=c11 -Wall -Wextra -Werror -shared -fPIC -O1 -o $@ $< -ldl
$(B)/lockstep-lab: Makefile
	$(Q)mkdir -p $(@D); printf '#!/bin/sh\nexec /usr/bin/python3 "%s/scripts/lib/lab.py" --build "%s" "$$@"\n' '$(CURDIR)' '$(abspath $(B))' > $@; chmod 755 $@
# Only the functions of client/lockstep*.c are exported.
$(B)/liblockstep.so.0: $(call objs,$(CLIENT)) $(B)/lib/libcommon-io.a $(B)/lib/libcommon-pure.a
	$(say) LINK $@
	$(Q)$(CC) -shared -Wl,-soname,liblockstep.so.0,-z,relro,-z,now,--as-needed,--exclude-libs,ALL $(if $(SAN),-fsanitize=$(SAN),-Wl$(comma)-z$(comma)defs) \
	    $(LDFLAGS) -o $@ $(filter %.o,$^) $(libs)
$(B)/liblockstep.so: $(B)/liblockstep.so.0
	$(Q)ln -sf liblockstep.so.0 $@
comma    := ,
# Self-contained: with what it uses of common, so that `-llockstep` is enough.
$(B)/liblockstep.a: $(call objs,$(CLIENT)) $(B)/lib/libcommon-io.a $(B)/lib/libcommon-pure.a
	$(Q)rm -f $@; printf 'create $@\n$(patsubst %,addmod %\n,$(filter %.o,$^))$(patsubst %,addlib %\n,$(filter %.a,$^))save\nend\n' | ar -M

define library
$(B)/lib/lib$(1).a: $(call objs,$(lib_$(1)))
	$(Q)mkdir -p $$(@D); rm -f $$@; ar rcs $$@ $$^
endef
$(foreach l,$(LIBNAMES),$(eval $(call library,$(l))))

$(B)/obj/%.o: %.c $(B)/flags | $(B)/gen/lockstep.pb-c.h
	$(say) CC $<
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) $(CFLAGS_ALL) $(if $(filter tests/%,$<),$(WARN_TEST)) -MMD -MP -c -o $@ $<
$(B)/obj/gen/%.o: $(B)/gen/%.c $(B)/flags
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) $(CFLAGS_ALL) -w -MMD -MP -c -o $@ $<
$(B)/gen/lockstep.pb-c.c $(B)/gen/lockstep.pb-c.h &: include/lockstep/lockstep.proto
	$(Q)mkdir -p $(B)/gen
	$(Q)protoc-c --c_out=$(B)/gen --proto_path=include/lockstep $<
# Everything is compiled again when compiler or flags change.
$(B)/flags: FORCE
	@mkdir -p $(B); echo '$(CC) $(CFLAGS_ALL)' | cmp -s - $@ || echo '$(CC) $(CFLAGS_ALL)' > $@
-include $(wildcard $(B)/obj/*.d $(B)/obj/*/*.d $(B)/obj/*/*/*.d)

# ---- checks
check: all $(TESTS)
	@scripts/tidy --pure $(B)
	@scripts/run-check $(B) $(TESTS) $(filter %-scenarios,$(TOOLS:%=$(B)/%))
# A part alone, whatever the state of the others: make unit DIRS="coordinator/core coordinator/dlog" T="test_dlog*"
libs: $(ALL_LIBS)
unit: $(ALL_LIBS) $(TESTS)
	@scripts/run-check $(B) $(TESTS)
asan:
	@$(MAKE) --no-print-directory BUILD=$(B)-asan SAN=address,undefined check
tsan:
	@CHECK_SECONDS=1200 $(MAKE) --no-print-directory BUILD=$(B)-tsan SAN=thread check
tidy: all
	@scripts/tidy $(B)
fmt:
	@git ls-files '*.c' '*.h' | xargs clang-format -i
# The log against a hostile disk, everything: each bit, length, sector; each call with each error; all prefixes and 10,000 reorderings (about 10 minutes).
.PHONY: damage coverage calls
damage: $(patsubst %,$(B)/tests/test_dlog_%,damage crash reorder nomem)
	@for t in $^; do DLOG_ALL=1 $$t || exit 1; done
coverage:
	@scripts/coverage $(B)-coverage
# The same on the real lockstepd, with voters as agents: CALLS="--sample 40", "--kind fsync", "--from 0 --count 200".
calls: all
	@LOCKSTEP_BUILD=$(abspath $(B)) /usr/bin/python3 tests/crash/calls.py $(CALLS)
sim: $(B)/lockstep-sim
	@$< --seeds $(SEEDS) --seed $(SEED)
# Has the simulator teeth? Every planted bug must be found within 100,000 seeds: MUTANTS="--quick" or names of some.
.PHONY: sim-mutants
sim-mutants: $(B)/lockstep-sim
	@BUILD=$(B) tests/sim/mutants $(MUTANTS)
# Static analysis. The long suites, one after another: LONG="--only sim --again" (see the scripts)
.PHONY: lint long
lint: $(B)/gen/lockstep.pb-c.h
	@scripts/lint $(B)
long:
	@scripts/long $(LONG)
# make fuzz TARGET=frame RUNS=1000000; fuzz-targets is what tests/fuzz/run builds, with clang.
fuzz:
	@tests/fuzz/run -b $(B) $(or $(TARGET),all) $(RUNS)
fuzz-targets: $(patsubst tests/fuzz/fuzz_%.c,$(B)/fuzz/%,$(wildcard tests/fuzz/fuzz_*.c))
# The protocol in Promela: all worlds, every guard removed once
.PHONY: model
model:
	@tests/model/run full
# On real servers, with Debian's own python3. PYTEST="tests/pg/test_commit.py -x -n0" narrows it.
PYTEST   ?= tests/pg -n 3 --dist loadfile
pg: all
	@PG_MORE=yes LOCKSTEP_BUILD=$(abspath $(B)) /usr/bin/python3 -m pytest -q -p no:cacheprovider $(PYTEST)
chaos: all
	@LOCKSTEP_BUILD=$(abspath $(B)) /usr/bin/python3 tests/crash/chaos.py --rounds $(ROUNDS) --seed $(SEED)
# The order flow in its three forms under kill -9. STATE=dir (goes on from there) ARGS="--at-most 480"
.PHONY: saga-chaos
saga-chaos: all
	@LOCKSTEP_BUILD=$(abspath $(B)) /usr/bin/python3 tests/crash/saga_chaos.py --rounds $(ROUNDS) --seed $(SEED) $(STATE:%=--state %) $(ARGS)
# Every message fault at every moment: REPEAT=10 CELLS="--only 'link/*' --state FILE" (see the script)
cells: all
	@LOCKSTEP_BUILD=$(abspath $(B)) /usr/bin/python3 tests/crash/cells.py --repeat $(or $(REPEAT),1) --seed $(SEED) $(CELLS)
# Killed at every crash point; and recovery beside the servers' own rate. POINT="name ..." STATE=dir (goes on from there) ARGS="--at-most 480"
crash: all
	@LOCKSTEP_BUILD=$(abspath $(B)) /usr/bin/python3 tests/crash/matrix.py --rounds $(ROUNDS) --seed $(SEED) $(if $(POINT),--point $(POINT)) $(STATE:%=--state %) $(ARGS)
recovery: all
	@LOCKSTEP_BUILD=$(abspath $(B)) /usr/bin/python3 tests/crash/recovery.py --rounds $(ROUNDS) $(ARGS)
# The failure laboratory, every experiment in its long form: LAB="all --mode 2pc" (docs/lab.md)
.PHONY: lab
lab: all
	@$(B)/lockstep lab run $(or $(LAB),all) --out $(B)/lab
# Half load and kills for half an hour: memory and CPU stay flat. SOAK=60: the short form. Cost per transaction from 1,000 to 1,000,000 of them, 1 to 256 clients: QUICK=1
soak: all
	@LOCKSTEP_BUILD=$(abspath $(B)) /usr/bin/python3 tests/crash/soak.py --seconds $(or $(SOAK),1800) --seed $(SEED)
flat: all
	@LOCKSTEP_BUILD=$(abspath $(B)) /usr/bin/python3 tests/crash/flat.py $(if $(QUICK),--quick) $(ARGS)
# Every comparison and the laboratory on one page, in BUILD/report: QUICK=1, KEEP=docs/report (a copy), ARGS="--only transfer"
.PHONY: soak flat report
report: all
	@/usr/bin/python3 scripts/lib/report.py --build $(B) $(if $(QUICK),--quick) $(KEEP:%=--keep %) $(ARGS)
clean:
	rm -rf $(B) $(B)-asan $(B)-tsan $(B)-coverage $(B)-fuzz

install: all
	@scripts/install-files "$(B)" "$(DESTDIR)" "$(PREFIX)" "$(VERSION)" $(PROGRAMS)
