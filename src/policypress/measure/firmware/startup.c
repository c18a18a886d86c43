/* From reset to main, for any Cortex-M: vector table, initial memory, FPU where the code uses one. */
#include <stdint.h>
#include <string.h>

#include "semihosting.h"

extern unsigned char data_start[], data_end[], data_image[], bss_start[], bss_end[], stack_top[]; /* sections.ld */

int main(void);

void reset(void);

void reset(void) {
#ifdef __ARM_FP
    *(volatile uint32_t *)0xE000ED88u |= 0xFu << 20; /* CPACR: full access to the coprocessors 10 and 11 */
    __asm__ volatile("dsb\n\tisb" ::: "memory");
#endif
    memcpy(data_start, data_image, (size_t)(data_end - data_start));
    memset(bss_start, 0, (size_t)(bss_end - bss_start));
    leave(main() == 0);
    for (;;)
        ;
}

static void fault(void) {
    leave(0);
    for (;;)
        ;
}

/* Nothing here uses interrupts, so the table ends with the exceptions of the core. */
__attribute__((section(".vectors"), used)) static const struct {
    void *stack;
    void (*handlers[15])(void);
} vectors = {
    stack_top,
    {reset, fault, fault, fault, fault, fault, fault, fault, fault, fault, fault, fault, fault, fault, fault},
};
