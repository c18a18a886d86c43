/*
 * Runs an exported policy on the observations in observations.bin: writes the actions to actions.bin, and what it
 * measured to measured.bin (struct measured). POLICY and POLICY_UPPER are the name given to the export.
 * With INTEGER_ONLY observations are input codes and actions the sums of the last layer, int32 both.
 */
#include "semihosting.h"

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
#define TEXT_(a) #a
#define TEXT(a) TEXT_(a)
#include TEXT(POLICY.h)

/* A policy with a state runs one episode in each pass. */
#if STATE_VALUES
static JOIN(POLICY, _state) state[STATE_VALUES];
#define WITH_STATE(observation, action) observation, state, action
#define RESET() JOIN(POLICY, _reset)(state)
#else
#define WITH_STATE(observation, action) observation, action
#define RESET() (void)0
#endif

#if INTEGER_ONLY
typedef int32_t observation_t, action_t;
static int act(const observation_t *observation, action_t *action) {
    JOIN(POLICY, _run)(WITH_STATE(observation, action));
    return 0;
}
#else
typedef JOIN(POLICY, _observation) observation_t;
typedef JOIN(POLICY, _action) action_t;
#if STATE_VALUES
static int act(const observation_t *observation, action_t *action) {
    return JOIN(POLICY, _predict)(WITH_STATE(observation, action));
}
#else
#define act JOIN(POLICY, _predict)
#endif
#endif

/* What the export wants to be called once. */
static int start(void) {
#if POLICY_INIT
    return JOIN(POLICY, _init)();
#else
    return 0;
#endif
}

typedef int (*function)(const observation_t *observation, action_t *action);

/* What one pass over all observations took. */
typedef struct {
    uint64_t ticks; /* of SysTick, at the clock of the core */
    uint32_t most;  /* ticks from one observation to the next, at most */
    uint32_t stack; /* bytes of stack written to, from where the pass was called */
} cost;

static struct measured {
    cost start, act, nothing, loop;
    uint32_t count, status; /* observations with an action; what the function returned for the one after them */
} measured;

static observation_t observation[OBSERVATION_VALUES];
static action_t action[ACTION_VALUES];

/* 2 instructions. */
__attribute__((naked)) static int nothing(const observation_t *o, action_t *a) {
    (void)o, (void)a;
    __asm__("movs r0, #0\n\tbx lr");
}

/* 2003 instructions, to check how they are counted. */
__attribute__((naked)) static int loop(const observation_t *o, action_t *a) {
    (void)o, (void)a;
    __asm__("ldr r1, =1000\n1:\tsubs r1, #1\n\tbne 1b\n\tmovs r0, #0\n\tbx lr\n\t.ltorg");
}

#define SYSTICK ((volatile uint32_t *)0xE000E010u) /* control, reload, current */
#define SYSTICK_MASK 0xFFFFFFu                     /* it counts down in 24 bits */

#define PAINT 0xA5A5A5A5u
#define PAINTED 8192u /* bytes of stack that are watched */
extern unsigned char stack_limit[]; /* sections.ld: end of everything else in RAM */

/* Inlined, so that no frame of theirs is in the way. */
#define INLINED static inline __attribute__((always_inline))

INLINED uint32_t *stack_pointer(void) {
    uint32_t *at;
    __asm__ volatile("mov %0, sp" : "=r"(at));
    return at;
}

INLINED uint32_t *watched(const uint32_t *top) {
    const uint32_t room = (uint32_t)((uintptr_t)top - (uintptr_t)stack_limit);
    return (uint32_t *)((uintptr_t)top - (room < PAINTED ? room & ~3u : PAINTED));
}

/* All observations once; `file`: where actions go, or -1. */
static __attribute__((noinline)) int pass(function f, int32_t observations, int32_t file, cost *taken) {
    uint32_t last = SYSTICK[2];
    rewind_file(observations);
    RESET();
    measured.count = 0;
    while (read_file(observations, observation, sizeof observation)) {
        measured.status = (uint32_t)f(observation, action);
        if (measured.status)
            return 0;
        if (file >= 0 && !write_file(file, action, sizeof action))
            return 0;
        const uint32_t now = SYSTICK[2], ticks = (last - now) & SYSTICK_MASK;
        last = now;
        taken->ticks += ticks;
        taken->most = ticks > taken->most ? ticks : taken->most;
        measured.count++;
    }
    return 1;
}

INLINED void paint(uint32_t *from, const uint32_t *to) {
    while (from < to)
        *(volatile uint32_t *)from++ = PAINT;
}

/* Bytes below `top` from the lowest one written to. */
INLINED uint32_t used(const uint32_t *from, const uint32_t *top) {
    while (from < top && *(const volatile uint32_t *)from == PAINT)
        from++;
    return (uint32_t)((uintptr_t)top - (uintptr_t)from);
}

static __attribute__((noinline)) int measure_start(cost *taken) {
    const uint32_t *top = stack_pointer();
    uint32_t before;
    int status;
    paint(watched(top), top);
    before = SYSTICK[2];
    status = start();
    taken->ticks = (before - SYSTICK[2]) & SYSTICK_MASK;
    taken->stack = used(watched(top), top);
    return status == 0;
}

/* A pass with a painted stack. */
static __attribute__((noinline)) int measure(function f, int32_t observations, cost *taken) {
    const uint32_t *top = stack_pointer();
    int good;
    paint(watched(top), top);
    good = pass(f, observations, -1, taken);
    taken->stack = used(watched(top), top);
    return good;
}

int main(void) {
    static const char input[] = "observations.bin", output[] = "actions.bin", report[] = "measured.bin";
    const int32_t observations = open_file(input, sizeof input - 1, 0);
    const int32_t actions = open_file(output, sizeof output - 1, 1);
    const int32_t file = open_file(report, sizeof report - 1, 1);
    cost written = {0, 0, 0};
    int good = observations >= 0 && actions >= 0 && file >= 0;
    SYSTICK[1] = SYSTICK_MASK;
    SYSTICK[2] = 0;
    SYSTICK[0] = 5; /* on, clock of the core, no interrupt */
    good = good && measure_start(&measured.start) && pass(act, observations, actions, &written) &&
           measure(act, observations, &measured.act) && measure(nothing, observations, &measured.nothing) &&
           measure(loop, observations, &measured.loop);
    good = file >= 0 && write_file(file, &measured, sizeof measured) && good;
    close_file(actions);
    close_file(file);
    return good ? 0 : 1;
}
