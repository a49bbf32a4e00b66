// A program that waits in user space, in ways that are known: `vmbox demo --trigger futex`. It says on the console who waits
// for whom. It has no library, because the container has none: it is built without one.
// Its numbers are those of x86_64.

enum { WRITE = 1, MMAP = 9, NANOSLEEP = 35, CLONE = 56, FORK = 57, VFORK = 58, GETTID = 186, FUTEX = 202 };
enum { WAIT = 0, WAIT_PRIVATE = 128, LOCK_PI_PRIVATE = 128 | 6 };
#define SHARED 0x21 /* MAP_SHARED | MAP_ANONYMOUS */
#define PRIVATE 0x22 /* MAP_PRIVATE | MAP_ANONYMOUS */
#define READ_WRITE 3 /* PROT_READ | PROT_WRITE */
#define THREAD 0x50f00 /* CLONE_VM, _FS, _FILES, _SIGHAND, _THREAD, _SYSVSEM */
#define STACK 16384

static long call(long number, long a, long b, long c, long d, long e, long f)
{
	register long r10 asm("r10") = d;
	register long r8 asm("r8") = e;
	register long r9 asm("r9") = f;
	long answer;

	asm volatile("syscall"
		     : "=a"(answer)
		     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
		     : "rcx", "r11", "memory");
	return answer;
}

static void say(const char *words, long number, const char *more, const void *at)
{
	const char *begin = "vmbox-demo: pid ";
	unsigned long address = (unsigned long)at;
	int length = 0, digits = 0;
	char reversed[20];
	char line[160];

	while (*begin)
		line[length++] = *begin++;
	do
		reversed[digits++] = '0' + number % 10;
	while (number /= 10);
	while (digits)
		line[length++] = reversed[--digits];
	line[length++] = ' ';
	while (*words)
		line[length++] = *words++;
	while (*more)
		line[length++] = *more++;
	for (digits = 60; digits >= 0; digits -= 4)
		line[length++] = "0123456789abcdef"[address >> digits & 15];
	line[length++] = '\n';
	call(WRITE, 1, (long)line, length, 0, 0, 0);
}

static long pid(void)
{
	return call(GETTID, 0, 0, 0, 0, 0, 0);
}

static void rest(long milliseconds)
{
	long time[2] = { milliseconds / 1000, milliseconds % 1000 * 1000000 };

	call(NANOSLEEP, (long)time, 0, 0, 0, 0, 0);
}

static void stay(void)
{
	for (;;)
		rest(60000);
}

static int plain = 2; /* as a C library's mutex that others wait for */
static int with_owner;
static int *between;

static void wait_plain(void)
{
	say("waits for the plain futex ", pid(), "at ", &plain);
	call(FUTEX, (long)&plain, WAIT_PRIVATE, 2, 0, 0, 0); /* CAUSE: futex */
	stay();
}

static void own(void)
{
	call(FUTEX, (long)&with_owner, LOCK_PI_PRIVATE, 0, 0, 0, 0);
	say("has the futex with an owner ", pid(), "at ", &with_owner);
	stay();
}

static void wait_owner(void)
{
	rest(300);
	say("waits for the futex with an owner ", pid(), "at ", &with_owner);
	call(FUTEX, (long)&with_owner, LOCK_PI_PRIVATE, 0, 0, 0, 0);
	stay();
}

static void wait_between(void)
{
	say("waits for the futex between processes ", pid(), "at ", between);
	call(FUTEX, (long)between, WAIT, 7, 0, 0, 0);
	stay();
}

static void thread(void (*function)(void))
{
	char *stack = (char *)call(MMAP, 0, STACK, READ_WRITE, PRIVATE, -1, 0) + STACK;
	register void (*begin)(void) asm("r12") = function;
	long answer;

	/* The new one has another stack: nothing of this function is on it. */
	asm volatile("xor %%r10, %%r10\n\txor %%r8, %%r8\n\tsyscall\n\ttest %%rax, %%rax\n\tjnz 1f\n\tcall *%%r12\n1:"
		     : "=a"(answer)
		     : "a"(CLONE), "D"(THREAD), "S"(stack), "d"(0), "r"(begin)
		     : "rcx", "r8", "r10", "r11", "memory");
}

static void vfork_and_stay(void)
{
	say("waits for its vfork ", pid(), "", 0);
	/* The child has this stack, and says nothing by a return. */
	if (call(VFORK, 0, 0, 0, 0, 0, 0) == 0) {
		say("is the child of vfork ", pid(), "", 0);
		stay();
	}
	stay();
}

void _start(void)
{
	between = (int *)call(MMAP, 0, 4096, READ_WRITE, SHARED, -1, 0);
	*between = 7;
	if (call(FORK, 0, 0, 0, 0, 0, 0) == 0)
		wait_between();
	if (call(FORK, 0, 0, 0, 0, 0, 0) == 0)
		wait_between();
	if (call(FORK, 0, 0, 0, 0, 0, 0) == 0)
		vfork_and_stay();
	thread(wait_plain);
	thread(wait_plain);
	thread(own);
	thread(wait_owner);
	stay();
}
