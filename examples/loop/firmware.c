/*
 * Runs the executor of an export, NAME_loop.h, through the calls in calls.bin, and writes what each one came to into
 * reports.bin (struct call, struct answer). POLICY is the name given to the export, POLICY_HEADER its NAME_loop.h;
 * observations of an INTEGER_ONLY one are codes, and actions sums.
 */
#include <string.h>

#include "semihosting.h"

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
#define TEXT_(a) #a
#define TEXT(a) TEXT_(a)
#include TEXT(POLICY_HEADER)

#if INTEGER_ONLY
typedef int32_t observation_t, action_t;
#define ANSWER sums
#else
typedef JOIN(POLICY, _observation) observation_t;
typedef JOIN(POLICY, _action) action_t;
#define ANSWER action
#endif

static struct call {
    uint32_t now_us, reset, period_us, tolerance_us;
    observation_t observation[OBSERVATION_VALUES];
} call;

static struct answer {
    int32_t status;
    uint32_t late_us;
    int32_t jitter_us;
    uint32_t missed;
    uint32_t steps, late, all_missed, held, refused, most_late_us, most_jitter_us;
    uint32_t self_test;
    action_t action[ACTION_VALUES];
#if STATE_VALUES
    JOIN(POLICY, _state) state[STATE_VALUES];
#endif
} answer;

static JOIN(POLICY, _loop) loop;

int main(void) {
    static const char input[] = "calls.bin", output[] = "reports.bin";
    static const action_t hold[ACTION_VALUES] = {1};
    const int32_t calls = open_file(input, sizeof input - 1, 0), reports = open_file(output, sizeof output - 1, 1);
    int begun = 0;
    while (read_file(calls, &call, sizeof call)) {
        JOIN(POLICY, _loop_report) report;
        if (!begun && JOIN(POLICY, _loop_init)(&loop, call.period_us, call.tolerance_us, hold) != 0)
            return 1;
        if (!begun)
            answer.self_test = (uint32_t)JOIN(POLICY, _loop_self_test)();
        else if (call.reset)
            JOIN(POLICY, _loop_reset)(&loop, hold);
        begun = 1;
        report = JOIN(POLICY, _loop_control)(&loop, call.now_us, call.observation, answer.action);
        answer.status = report.status;
        answer.late_us = report.late_us;
        answer.jitter_us = report.jitter_us;
        answer.missed = report.missed;
        answer.steps = loop.steps;
        answer.late = loop.late;
        answer.all_missed = loop.missed;
        answer.held = loop.held;
        answer.refused = loop.refused;
        answer.most_late_us = loop.most_late_us;
        answer.most_jitter_us = loop.most_jitter_us;
#if STATE_VALUES
        memcpy(answer.state, loop.state, sizeof answer.state);
#endif
        if (memcmp(loop.ANSWER, answer.action, sizeof answer.action) || !write_file(reports, &answer, sizeof answer))
            return 1;
    }
    close_file(reports);
    return !begun;
}
