/*
 * Decodes random and damaged bytes; built with sanitizers it shows that the decoder is safe on any input:
 *   gcc -std=c99 -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all -Isrc/policypress/runtime \
 *       tests/runtime/fuzz_coder.c src/policypress/runtime/coder.c -o fuzz_coder && ./fuzz_coder 100000
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "coder.h"

static uint32_t state = 1;

static uint32_t draw(uint32_t n) {
    state = state * 1664525u + 1013904223u;
    return (state >> 8) % n;
}

/* Encodes a vector and a matrix, or decodes over them. */
static int pass(coder *c, coder_workspace *w, int32_t *values, uint32_t n, int ascending, int8_t *codes, uint32_t rows,
                uint32_t columns, unsigned bits) {
    coder_model model = {0};
    coder_unsigned(c, n, 1);
    coder_signed(c, values[0], 2);
    if (coder_integers(c, w, values, n, ascending))
        return 1;
    if (!c->input)
        coder_matrix_search(c, w, codes, rows, columns, bits, &model);
    return coder_matrix(c, w, codes, rows, columns, bits, &model, NULL);
}

int main(int argc, char **argv) {
    static uint8_t stream[1 << 16];
    static int32_t values[64], values_back[64];
    static int8_t codes[400], codes_back[400];
    static coder_line storage[22];
    static coder_workspace w;
    long runs = argc > 1 ? atol(argv[1]) : 10000, valid = 0, refused = 0;
    w.columns = storage;
    for (long run = 0; run < runs; run++) {
        uint32_t n = 1 + draw(64), rows = 1 + draw(20), columns = 1 + draw(20), keep = draw(5);
        unsigned bits = 2 + draw(7), limit = (1u << (bits - 1)) - 1;
        int ascending = (int)draw(2);
        size_t size;
        uint8_t *input;
        coder c;
        if (run % 10 == 0) {
            int32_t last = (int32_t)draw(1u << 24) - (1 << 23);
            for (uint32_t i = 0; i < n; i++)
                last = values[i] = ascending ? last + (int32_t)draw(2000) : (int32_t)(draw(1u << 24) << 8);
            for (uint32_t i = 0; i < rows * columns; i++)
                codes[i] = (int8_t)(draw(5) < keep ? (int)draw(2 * limit + 1) - (int)limit : 0);
            coder_encode_start(&c, stream, sizeof stream);
            pass(&c, &w, values, n, ascending, codes, rows, columns, bits);
            size = coder_encode_finish(&c);
            coder_decode_start(&c, stream, size);
            if (pass(&c, &w, values_back, n, ascending, codes_back, rows, columns, bits) || coder_decode_finish(&c) ||
                memcmp(values, values_back, 4 * n) || memcmp(codes, codes_back, rows * columns)) {
                printf("run %ld did not come back\n", run);
                return 1;
            }
        } else {
            size = draw(600);
            for (size_t i = 0; i < size; i++)
                if (run % 2 || draw(40) == 0)
                    stream[i] = (uint8_t)draw(256);
        }
        input = malloc(size ? size : 1); /* of its own, so that a read past the end is seen */
        memcpy(input, stream, size);
        coder_decode_start(&c, input, size);
        if (pass(&c, &w, values_back, n, ascending, codes_back, rows, columns, bits) || coder_decode_finish(&c))
            refused++;
        else
            valid++;
        free(input);
    }
    printf("%ld runs, %ld valid, %ld refused\n", runs, valid, refused);
    return 0;
}
