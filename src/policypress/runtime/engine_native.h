/* Kernels of the machine at hand for the steps of engine.h. */
#ifndef POLICYPRESS_ENGINE_NATIVE_H
#define POLICYPRESS_ENGINE_NATIVE_H

#include "engine.h"

typedef struct engine_native engine_native;

/*
 * Gives the steps of a network, which must be writable, the fastest kernels that this machine has for them. `weights`
 * holds, for each layer, its dense weights as (outputs, inputs in the order of a window in memory), int8 or float32.
 * Returns what engine_release frees once the network no longer runs; NULL if there is no memory.
 */
engine_native *engine_prepare(engine_network *network, const void *const *weights);
void engine_release(engine_native *native);

const char *engine_machine(void);                       /* the instructions that kernels use here */
const char *engine_kernel_name(const engine_step *step); /* what runs a step */
#endif
