/*
 * Decodes damaged payloads into arrays of their own; built with sanitizers it shows that nothing else is touched.
 *   fuzz_payload FILE RUNS STRUCTURE ROWS COLUMNS ROWS COLUMNS ...
 * tests/runtime/test_payload.py builds and runs it. The first run has no damage.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "payload.h"

static uint32_t state = 1;

static uint32_t draw(uint32_t n) {
    state = state * 1664525u + 1013904223u;
    return (state >> 8) % n;
}

int main(int argc, char **argv) {
    static uint8_t original[1 << 16], stream[1 << 16];
    static payload_memory memory;
    static payload_array arrays[256];
    size_t size, count = 0;
    uint32_t structure, widest = 0;
    long runs, valid = 0, refused = 0;
    FILE *file = argc > 3 ? fopen(argv[1], "rb") : NULL;
    if (!file)
        return 2;
    size = fread(original, 1, sizeof original - 16, file);
    fclose(file);
    runs = atol(argv[2]);
    structure = (uint32_t)strtoul(argv[3], NULL, 10);
    for (int i = 4; i + 1 < argc && count < 256; i += 2, count++) {
        payload_array *a = &arrays[count];
        a->rows = (uint32_t)atol(argv[i]);
        a->columns = (uint32_t)atol(argv[i + 1]);
        a->values = malloc(a->columns ? (size_t)a->rows * a->columns : (size_t)a->rows * 4);
        widest = a->columns > widest ? a->columns : widest;
    }
    memory.w.columns = malloc((widest + 2) * sizeof *memory.w.columns);
    for (long run = 0; run < runs; run++) {
        size_t length = size;
        uint8_t *input;
        memcpy(stream, original, sizeof stream);
        if (run && run % 4 == 0)
            length = draw((uint32_t)size + 8);
        if (run % 4)
            for (uint32_t n = 1 + draw(4); n; n--) {
                uint32_t at = draw(run % 2 ? 24 : (uint32_t)size) % (uint32_t)size;
                stream[at] = (uint8_t)(draw(2) ? draw(256) : stream[at] ^ 1u << draw(8));
            }
        input = malloc(length ? length : 1); /* of its own, so that a read past the end is seen */
        memcpy(input, stream, length);
        if (payload_decode(input, length, arrays, count, structure, &memory))
            refused++;
        else
            valid++;
        free(input);
    }
    for (size_t i = 0; i < count; i++)
        free(arrays[i].values);
    free(memory.w.columns);
    printf("%ld runs, %ld valid, %ld refused\n", runs, valid, refused);
    return 0;
}
