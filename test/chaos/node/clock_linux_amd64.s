//go:build clock

#include "textflag.h"

// clockGettime has the C calling convention, as the function in the vDSO that
// it stands for: DI is the clock, SI points to its struct timespec, AX is the
// result. The runtime calls it on a system stack.
TEXT ·clockGettime(SB),NOSPLIT|NOFRAME,$0
	MOVQ	$228, AX // clock_gettime
	SYSCALL
	TESTL	DI, DI // CLOCK_REALTIME is 0
	JNE	done
	MOVQ	·clockOffset(SB), CX
	ADDQ	CX, 0(SI)
done:
	RET

// func clockGettimePC() uintptr
TEXT ·clockGettimePC(SB),NOSPLIT,$0-8
	LEAQ	·clockGettime(SB), AX
	MOVQ	AX, ret+0(FP)
	RET
