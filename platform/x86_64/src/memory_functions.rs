//! `memcpy` and its family, which compiled code calls by name (the C library's on other hosts).
//!
//! Assembly, since a compiler would turn a loop in Rust into a call of the very function. Long blocks move by 64 bytes in
//! four SSE registers: an emulated processor runs that several times as fast as `rep movsb`, and a real one nearly as
//! fast. System V ABI: arguments in `rdi`, `rsi`, `rdx`; `xmm0`..`xmm15` are the callee's to destroy.
//!
//! In each case up to 64 bytes everything is read before anything is written, so overlap does not matter. Beyond,
//! the last (going up) or first (going down) 64 bytes are read before the loop, which may overwrite them, and are
//! written after it.

use core::arch::global_asm;

global_asm!(
    r#"
    .section .text.memory_functions, "ax", @progbits
    .globl memcpy, memmove, memset, memcmp, bcmp, strlen
    .type memcpy, @function
    .type memmove, @function
    .type memset, @function
    .type memcmp, @function
    .type bcmp, @function
    .type strlen, @function

    # void *memcpy(void *to, const void *from, size_t count)
    # void *memmove(void *to, const void *from, size_t count)
    .balign 16
memcpy:
memmove:
    mov rax, rdi
    cmp rdx, 16
    jb 20f
    cmp rdx, 32
    ja 10f
    movups xmm0, [rsi]
    movups xmm1, [rsi + rdx - 16]
    movups [rdi], xmm0
    movups [rdi + rdx - 16], xmm1
    ret
10: cmp rdx, 64
    ja 12f
    movups xmm0, [rsi]
    movups xmm1, [rsi + 16]
    movups xmm2, [rsi + rdx - 32]
    movups xmm3, [rsi + rdx - 16]
    movups [rdi], xmm0
    movups [rdi + 16], xmm1
    movups [rdi + rdx - 32], xmm2
    movups [rdi + rdx - 16], xmm3
    ret
12: mov rcx, rdi
    sub rcx, rsi
    cmp rcx, rdx
    jb 16f                      # to lies in (from, from + count): go down

    movups xmm4, [rsi + rdx - 64]
    movups xmm5, [rsi + rdx - 48]
    movups xmm6, [rsi + rdx - 32]
    movups xmm7, [rsi + rdx - 16]
    lea r8, [rdi + rdx - 64]
    .balign 16
14: movups xmm0, [rsi]
    movups xmm1, [rsi + 16]
    movups xmm2, [rsi + 32]
    movups xmm3, [rsi + 48]
    movups [rdi], xmm0
    movups [rdi + 16], xmm1
    movups [rdi + 32], xmm2
    movups [rdi + 48], xmm3
    add rsi, 64
    add rdi, 64
    cmp rdi, r8
    jb 14b
    movups [r8], xmm4
    movups [r8 + 16], xmm5
    movups [r8 + 32], xmm6
    movups [r8 + 48], xmm7
    ret

16: movups xmm4, [rsi]
    movups xmm5, [rsi + 16]
    movups xmm6, [rsi + 32]
    movups xmm7, [rsi + 48]
    .balign 16
18: movups xmm0, [rsi + rdx - 64]
    movups xmm1, [rsi + rdx - 48]
    movups xmm2, [rsi + rdx - 32]
    movups xmm3, [rsi + rdx - 16]
    movups [rdi + rdx - 64], xmm0
    movups [rdi + rdx - 48], xmm1
    movups [rdi + rdx - 32], xmm2
    movups [rdi + rdx - 16], xmm3
    sub rdx, 64
    cmp rdx, 64
    ja 18b
    movups [rdi], xmm4
    movups [rdi + 16], xmm5
    movups [rdi + 32], xmm6
    movups [rdi + 48], xmm7
    ret

20: cmp rdx, 8
    jb 22f
    mov rcx, [rsi]
    mov r8, [rsi + rdx - 8]
    mov [rdi], rcx
    mov [rdi + rdx - 8], r8
    ret
22: cmp rdx, 4
    jb 24f
    mov ecx, [rsi]
    mov r8d, [rsi + rdx - 4]
    mov [rdi], ecx
    mov [rdi + rdx - 4], r8d
    ret
24: cmp rdx, 2
    jb 26f
    movzx ecx, word ptr [rsi]
    movzx r8d, word ptr [rsi + rdx - 2]
    mov [rdi], cx
    mov [rdi + rdx - 2], r8w
    ret
26: test rdx, rdx
    jz 28f
    mov cl, [rsi]
    mov [rdi], cl
28: ret

    # void *memset(void *to, int byte, size_t count)
    .balign 16
memset:
    mov rax, rdi
    movzx ecx, sil
    mov r8, 0x0101010101010101
    imul rcx, r8
    cmp rdx, 16
    jb 34f
    movq xmm0, rcx
    punpcklqdq xmm0, xmm0
    lea r8, [rdi + rdx - 16]    # the last 16 bytes, written last
    sub rdx, 64
    jb 32f
    .balign 16
30: movups [rdi], xmm0
    movups [rdi + 16], xmm0
    movups [rdi + 32], xmm0
    movups [rdi + 48], xmm0
    add rdi, 64
    sub rdx, 64
    jae 30b
32: cmp rdi, r8
    jae 33f
    movups [rdi], xmm0
    add rdi, 16
    jmp 32b
33: movups [r8], xmm0
    ret
34: cmp rdx, 8
    jb 35f
    mov [rdi], rcx
    mov [rdi + rdx - 8], rcx
    ret
35: cmp rdx, 4
    jb 36f
    mov [rdi], ecx
    mov [rdi + rdx - 4], ecx
    ret
36: test rdx, rdx
    jz 38f
    mov [rdi], cl
    mov [rdi + rdx - 1], cl
    shr rdx, 1
    mov [rdi + rdx], cl
38: ret

    # int memcmp(const void *a, const void *b, size_t count)
    # int bcmp(const void *a, const void *b, size_t count)
    .balign 16
memcmp:
bcmp:
    sub rdx, 8
    jb 44f
40: mov rax, [rdi]
    mov rcx, [rsi]
    cmp rax, rcx
    jne 42f
    add rdi, 8
    add rsi, 8
    sub rdx, 8
    jae 40b
    jmp 44f
42: bswap rax                   # first byte most significant
    bswap rcx
    cmp rax, rcx
    sbb eax, eax
    or eax, 1
    ret
44: add rdx, 8
    jz 48f
46: movzx eax, byte ptr [rdi]
    movzx ecx, byte ptr [rsi]
    sub eax, ecx
    jne 49f
    inc rdi
    inc rsi
    dec rdx
    jnz 46b
48: xor eax, eax
49: ret

    # size_t strlen(const char *text)
    .balign 16
strlen:
    xor eax, eax
50: cmp byte ptr [rdi + rax], 0
    je 52f
    inc rax
    jmp 50b
52: ret
    "#
);
