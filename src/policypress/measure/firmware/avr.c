/*
 * For an 8-bit AVR: answers the codes in codes.h by the integer-only export policy.h, and sends sums, ticks of 64 cycles
 * and the deepest stack over the serial port. EMPTY: without the policy, to know what it adds.
 */
#include <avr/interrupt.h>
#include <avr/io.h>
#include <avr/sleep.h>

#include "policy.h"

#include "codes.h"

#if EMPTY
#define act() (sums[0] = codes[0])
#else
#define act() policy_run(codes, sums)
#endif

static void put(const char *text) {
    for (; *text; text++) {
        while (!(UCSR0A & (1 << UDRE0)))
            ;
        UDR0 = (uint8_t)*text;
    }
}

static void hex(uint32_t value) {
    char text[9] = "";
    for (int8_t k = 7; k >= 0; k--, value >>= 4)
        text[k] = "0123456789abcdef"[value & 15];
    put(text);
}

#define PAINT 0xA5
extern unsigned char __bss_end;

int main(void) {
    static int32_t codes[POLICY_OBSERVATION_SIZE], sums[POLICY_OUTPUT_SIZE];
    unsigned char *low = &__bss_end, *const top = (unsigned char *)SP;
    uint32_t ticks = 0;
    UCSR0B = 1 << TXEN0;
    TCCR1B = 1 << CS11 | 1 << CS10; /* a tick every 64 cycles */
#if SELF_TEST
    if (policy_self_test())
        put("self test\n");
#endif
    for (volatile unsigned char *p = low; p < top; p++) /* memset would have its own stack painted */
        *p = PAINT;
    for (uint16_t i = 0; i < COUNT; i++) {
        uint16_t start;
        for (uint16_t k = 0; k < POLICY_OBSERVATION_SIZE; k++)
            codes[k] = all_codes[i][k];
        start = TCNT1;
        act();
        ticks += (uint16_t)(TCNT1 - start);
        for (uint16_t k = 0; k < POLICY_OUTPUT_SIZE; k++) {
            put("sum ");
            hex((uint32_t)sums[k]);
            put("\n");
        }
    }
    while (low < top && *low == PAINT)
        low++;
    put("took ");
    hex(ticks);
    hex((uint32_t)(top - low));
    put("\n");
    cli();
    sleep_mode(); /* ends simavr */
}
