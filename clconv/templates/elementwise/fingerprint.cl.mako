## fingerprint: states[item*4 + i], i < 4, of the words of a share:
##   state = rotate((state ^ word) * PRIME, HALF) for word after word, in each of 16 lanes of 4 vectors
## PRIME is odd, so that a step loses nothing: a change of one word changes the result, and so does all but
## certainly any other. The product carries a change to higher bits alone, so they go to the lower half: a
## change of a sign would stay what it is, and another one undo it.
##
## A work-item owns the share `item` of `share` blocks of 64 words; the last one has the rest too.
<%
    lane = "ulong" if word == "ulong" else "uint"
    prime = "0x9E3779B97F4A7C15UL" if word == "ulong" else "0x9E3779B1u"
%>\
#define PRIME ${prime}
#define HALF ${32 if word == "ulong" else 16}
#define STEP(state, word) (((state) ^ (word)) * PRIME << HALF | ((state) ^ (word)) * PRIME >> HALF)
// PoCL 3.0 has a function for conversions, whose arguments of 64 bytes it does not align.
% if word == lane:
#define WIDE(words) (words)
% else:
#if defined(__clang__)
#define WIDE(words) __builtin_convertvector(words, ${lane}16)
#else
#define WIDE(words) convert_${lane}16(words)
#endif
% endif
typedef ${word}16 WORDS __attribute__((aligned(sizeof(${word}))));
typedef ${lane}16 STATE __attribute__((aligned(sizeof(${lane}))));

__kernel ${attributes}
void fingerprint(${signature})
{
    for (long item = get_global_id(0); item < count; item += get_global_size(0)) {
        ${lane}16 a = 1, b = 2, c = 3, d = 4;
        __global const ${word} *at = words + words_offset + item * share * 64;
        const long rest = length - item * share * 64;
        const long here = item == count - 1 || rest < share * 64 ? rest : share * 64;
        long i = 0;
        for (; i + 64 <= here; i += 64) {
            __global const WORDS *from = (__global const WORDS *)(at + i);
            a = STEP(a, WIDE(from[0]));
            b = STEP(b, WIDE(from[1]));
            c = STEP(c, WIDE(from[2]));
            d = STEP(d, WIDE(from[3]));
        }
        for (; i < here; ++i) {
            a.s0 = STEP(a.s0, at[i]);
            a = a.s123456789abcdef0;
        }
        __global STATE *to = (__global STATE *)(states + states_offset + item * 64);
        to[0] = a;
        to[1] = b;
        to[2] = c;
        to[3] = d;
    }
}
