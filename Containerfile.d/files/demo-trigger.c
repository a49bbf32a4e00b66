// A kernel module that ends its kernel in a way that is known: `vmbox demo --trigger`, and the tests of `vmbox explain`.
//
//   insmod vmbox_demo.ko trigger=NAME
//
// The comment "CAUSE: NAME" marks the line of the fault, or of the wait that never ends. Tests read these marks, so that
// what they compare with is this source and nothing that a debugger said.
#include <linux/bug.h>
#include <linux/completion.h>
#include <linux/delay.h>
#include <linux/err.h>
#include <linux/jiffies.h>
#include <linux/kernel.h>
#include <linux/kthread.h>
#include <linux/list.h>
#include <linux/mm.h>
#include <linux/mman.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/percpu-rwsem.h>
#include <linux/rcupdate.h>
#include <linux/refcount.h>
#include <linux/rwsem.h>
#include <linux/sched.h>
#include <linux/semaphore.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/uaccess.h>
#include <linux/vmalloc.h>
#include <linux/workqueue.h>

/* Compiled as it is written: not inlined, and with its own arguments. */
#define as_written noinline __attribute__((noipa))

static char *trigger = "";
module_param(trigger, charp, 0444);
MODULE_PARM_DESC(trigger, "how the kernel ends");

struct vmbox_route {
	unsigned long flags;
	char name[48];
	unsigned long gateway;
};
static_assert(offsetof(struct vmbox_route, gateway) == 0x38);

struct vmbox_packet {
	struct list_head queue;
	struct vmbox_route *route;
	unsigned long length;
};
static_assert(offsetof(struct vmbox_packet, route) == 0x10);

static as_written unsigned long vmbox_gateway(struct vmbox_route *route)
{
	return READ_ONCE(route->gateway); /* CAUSE: null-pointer */
}

static as_written void vmbox_forward(struct vmbox_packet *packet)
{
	pr_info("vmbox_demo: gateway %lx\n", vmbox_gateway(READ_ONCE(packet->route)));
}

static void null_pointer(void)
{
	struct vmbox_packet *packet = kzalloc(sizeof(*packet), GFP_KERNEL);

	if (packet)
		vmbox_forward(packet);
}

static as_written void vmbox_measure(struct vmbox_packet *packet)
{
	/* The packet is free, and what its pointer was is SLUB's poison. */
	WRITE_ONCE(packet->route->flags, 1); /* CAUSE: use-after-free */
}

static void use_after_free(void)
{
	struct kmem_cache *cache = kmem_cache_create("vmbox_packet", sizeof(struct vmbox_packet), 0, 0, NULL);
	struct vmbox_packet *packet = cache ? kmem_cache_zalloc(cache, GFP_KERNEL) : NULL;

	if (!packet)
		return;
	OPTIMIZER_HIDE_VAR(packet);
	pr_info("vmbox_demo: packet at %px\n", packet);
	kmem_cache_free(cache, packet);
	vmbox_measure(packet);
}

static as_written void vmbox_dequeue(struct vmbox_packet *packet)
{
	list_del(&packet->queue); /* CAUSE: list-corruption */
}

static void list_corruption(void)
{
	static LIST_HEAD(queue);
	struct vmbox_packet *packet = kzalloc(sizeof(*packet), GFP_KERNEL);

	if (!packet)
		return;
	list_add(&packet->queue, &queue);
	vmbox_dequeue(packet);
	vmbox_dequeue(packet);
}

static as_written void vmbox_check(unsigned long length)
{
	BUG_ON(length > 9000); /* CAUSE: bug */
}

static void bug(void)
{
	vmbox_check(jiffies | 0x10000);
}

static void general_protection(void)
{
	struct vmbox_packet *packet = kzalloc(sizeof(*packet), GFP_KERNEL);

	if (!packet)
		return;
	/* A text that was copied over a pointer. */
	memcpy(&packet->route, "overflow", sizeof(packet->route));
	OPTIMIZER_HIDE_VAR(packet);
	vmbox_forward(packet); /* faults in vmbox_gateway */
}

static as_written unsigned long vmbox_average(unsigned long total, unsigned long count)
{
	return total / count; /* CAUSE: divide-error */
}

static void divide_error(void)
{
	unsigned long count = 0;

	OPTIMIZER_HIDE_VAR(count);
	pr_info("vmbox_demo: average %lu\n", vmbox_average(jiffies, count));
}

static as_written void vmbox_expect(unsigned long length)
{
	WARN_ON(length > 9000); /* CAUSE: warning */
}

static void warning(void)
{
	vmbox_expect(jiffies | 0x10000);
}

static as_written void vmbox_get(refcount_t *users)
{
	refcount_inc(users); /* CAUSE: refcount */
}

static void refcount(void)
{
	static refcount_t users = REFCOUNT_INIT(0);

	vmbox_get(&users);
}

static as_written void vmbox_label(const char *name, unsigned long length)
{
	char here[16];

	memcpy(here, name, length); /* CAUSE: buffer-overflow */
	barrier_data(here);
}

static as_written void vmbox_name(const char *name, unsigned long length)
{
	char here[16];
	unsigned long at;

	for (at = 0; at < length; at++)
		WRITE_ONCE(here[at], name[at]); /* CAUSE: stack-protector */
}

static void too_long(void (*function)(const char *, unsigned long))
{
	/* Over the canary, and not over what is above the frame. */
	unsigned long length = 32;

	OPTIMIZER_HIDE_VAR(length);
	function("a name that is longer than that of a label", length);
}

static as_written void vmbox_fill(char *area, unsigned long length)
{
	unsigned long at;

	for (at = 0; at < length; at++)
		WRITE_ONCE(area[at], 'x'); /* CAUSE: out-of-bounds */
}

static void out_of_bounds(void)
{
	char *area = vmalloc(PAGE_SIZE);

	if (!area)
		return;
	pr_info("vmbox_demo: area at %px\n", area);
	vmbox_fill(area, PAGE_SIZE + 8);
}

static as_written void vmbox_jump(void (*function)(void))
{
	function(); /* CAUSE: execute-data */
}

static void execute_data(void)
{
	unsigned char *code = kzalloc(64, GFP_KERNEL);

	if (!code)
		return;
	code[0] = 0xc3; /* ret */
	pr_info("vmbox_demo: data at %px\n", code);
	vmbox_jump((void (*)(void))code);
}

static as_written unsigned long vmbox_receive(char *to, const void __user *from)
{
	return copy_from_user(to, from, 64); /* CAUSE: user-copy */
}

static void user_copy(void)
{
	/* The address of a user is checked, that of the kernel is not; the page of the first must be there. */
	unsigned long at = vm_mmap(NULL, 0, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_ANONYMOUS | MAP_PRIVATE, 0);
	char *gone = vmalloc(PAGE_SIZE);

	if (IS_ERR_VALUE(at) || !gone || clear_user((void __user *)at, PAGE_SIZE))
		return;
	pr_info("vmbox_demo: user page at %lx, buffer at %px\n", at, gone);
	vfree(gone);
	vmbox_receive(gone, (void __user *)at);
}

static as_written void bad_page_state(void)
{
	/* Too many for the lists of a CPU, of which pages are checked late. */
	const unsigned int order = 4;
	struct page *page = alloc_pages(GFP_KERNEL, order);

	if (!page)
		return;
	pr_info("vmbox_demo: page %lx\n", page_to_pfn(page));
	/* As if a file still had it. */
	page->mapping = (void *)0xdead0000;
	__free_pages(page, order); /* CAUSE: bad-page-state */
}

#ifdef CONFIG_ARM64
#define VMBOX_PUSH_THERE "mov sp, %0\n\tstr xzr, [sp, #-16]!"
#else
#define VMBOX_PUSH_THERE "mov %0, %%rsp\n\tpush $0"
#endif

static as_written void vmbox_switch(unsigned long stack)
{
	/* Where there is no stack, no exception can be handled, either. */
	asm volatile(VMBOX_PUSH_THERE : : "r"(stack)); /* CAUSE: double-fault */
}

static void double_fault(void)
{
	char *area = vmalloc(PAGE_SIZE);

	if (area)
		vmbox_switch((unsigned long)area + PAGE_SIZE + PAGE_SIZE / 2);
}

static as_written int vmbox_descend(volatile char *above)
{
	volatile char here[512];

	if (!above)
		return 0;
	here[0] = above[0] + 1;
	return vmbox_descend(here) + here[0]; /* CAUSE: stack-overflow */
}

static void stack_overflow(void)
{
	volatile char here[1] = { 0 };

	vmbox_descend(here);
}

static bool vmbox_staying = true;

/* A loop without an end would make a function of which objtool wants to know that it does not return. */
static inline bool vmbox_stays(void)
{
	return READ_ONCE(vmbox_staying);
}

static as_written void soft_lockup(void)
{
	preempt_disable();
	while (vmbox_stays())
		cpu_relax(); /* CAUSE: soft-lockup */
}

static as_written void rcu_stall(void)
{
	rcu_read_lock();
	preempt_disable();
	while (vmbox_stays())
		cpu_relax(); /* CAUSE: rcu-stall */
}

/* What waits, or is waited for, has threads of its own. Each says its part of the cause, with its PID. */

static DEFINE_MUTEX(vmbox_outer);
static DEFINE_MUTEX(vmbox_inner);
static DECLARE_RWSEM(vmbox_table);
static DECLARE_COMPLETION(vmbox_first);
static DECLARE_COMPLETION(vmbox_second);
static DECLARE_COMPLETION(vmbox_never);

static int deadlock_first(void *unused)
{
	mutex_lock(&vmbox_outer);
	pr_info("vmbox_demo: pid %d holds vmbox_outer, waits for vmbox_inner\n", current->pid);
	complete(&vmbox_first);
	wait_for_completion(&vmbox_second);
	mutex_lock(&vmbox_inner); /* CAUSE: deadlock */
	return 0;
}

static int deadlock_second(void *unused)
{
	mutex_lock(&vmbox_inner);
	pr_info("vmbox_demo: pid %d holds vmbox_inner, waits for vmbox_outer\n", current->pid);
	complete(&vmbox_second);
	wait_for_completion(&vmbox_first);
	mutex_lock(&vmbox_outer);
	return 0;
}

static int deadlock_behind(void *unused)
{
	msleep(100);
	pr_info("vmbox_demo: pid %d waits for vmbox_outer\n", current->pid);
	mutex_lock(&vmbox_outer);
	return 0;
}

static int rwsem_writer(void *unused)
{
	down_write(&vmbox_table);
	pr_info("vmbox_demo: pid %d holds vmbox_table, waits for vmbox_never\n", current->pid);
	complete(&vmbox_first);
	wait_for_completion(&vmbox_never); /* CAUSE: rwsem */
	return 0;
}

static int rwsem_reader(void *unused)
{
	wait_for_completion(&vmbox_first);
	pr_info("vmbox_demo: pid %d waits for vmbox_table\n", current->pid);
	down_read(&vmbox_table);
	return 0;
}

static int readers_first(void *unused)
{
	down_read(&vmbox_table);
	pr_info("vmbox_demo: pid %d reads vmbox_table, waits for vmbox_never\n", current->pid);
	wait_for_completion(&vmbox_never);
	return 0;
}

static int readers_second(void *unused)
{
	msleep(100);
	down_read(&vmbox_table);
	pr_info("vmbox_demo: pid %d reads vmbox_table as the last, waits for vmbox_never\n", current->pid);
	complete(&vmbox_first);
	wait_for_completion(&vmbox_never); /* CAUSE: rwsem-readers */
	return 0;
}

static int readers_writer(void *unused)
{
	wait_for_completion(&vmbox_first);
	pr_info("vmbox_demo: pid %d waits for vmbox_table\n", current->pid);
	down_write(&vmbox_table);
	return 0;
}

static int convoy_head(void *unused)
{
	mutex_lock(&vmbox_outer);
	pr_info("vmbox_demo: pid %d holds vmbox_outer, waits for vmbox_never\n", current->pid);
	complete(&vmbox_first);
	wait_for_completion(&vmbox_never); /* CAUSE: convoy */
	return 0;
}

static int convoy_member(void *unused)
{
	mutex_lock(&vmbox_outer);
	return 0;
}

static void vmbox_spin(struct work_struct *work)
{
	pr_info("vmbox_demo: pid %d runs vmbox_spin\n", current->pid);
	/* Since 6.5 another worker begins what waits behind one that uses the CPU for long: it does not get the CPU. */
	preempt_disable();
	while (vmbox_stays())
		cpu_relax(); /* CAUSE: workqueue */
	preempt_enable();
}

static void vmbox_wait(struct work_struct *work)
{
}

static DECLARE_WORK(vmbox_spinning, vmbox_spin);
static DECLARE_WORK(vmbox_waiting, vmbox_wait);

static void workqueue(void)
{
	schedule_work_on(0, &vmbox_spinning);
	msleep(200);
	schedule_work_on(0, &vmbox_waiting);
}

static struct task_struct *run(int (*function)(void *), const char *name)
{
	struct task_struct *task = kthread_run(function, NULL, "%s", name);

	if (IS_ERR(task))
		pr_err("vmbox_demo: no thread %s: %ld\n", name, PTR_ERR(task));
	return task;
}

/* Many kinds of waiting, which do not touch each other. */

DEFINE_STATIC_PERCPU_RWSEM(vmbox_config);
static struct semaphore vmbox_slots = __SEMAPHORE_INITIALIZER(vmbox_slots, 1);
static DECLARE_COMPLETION(vmbox_holding);
static struct task_struct *vmbox_stubborn;

static int config_reader(void *unused)
{
	percpu_down_read(&vmbox_config);
	pr_info("vmbox_demo: pid %d reads vmbox_config, waits for vmbox_never\n", current->pid);
	complete(&vmbox_first);
	wait_for_completion(&vmbox_never);
	return 0;
}

static int config_writer(void *unused)
{
	wait_for_completion(&vmbox_first);
	pr_info("vmbox_demo: pid %d writes vmbox_config\n", current->pid);
	complete(&vmbox_second);
	percpu_down_write(&vmbox_config);
	return 0;
}

static int config_late(void *unused)
{
	wait_for_completion(&vmbox_second);
	msleep(500);
	pr_info("vmbox_demo: pid %d reads vmbox_config behind the writer\n", current->pid);
	percpu_down_read(&vmbox_config);
	return 0;
}

static int slots_holder(void *unused)
{
	down(&vmbox_slots);
	pr_info("vmbox_demo: pid %d holds vmbox_slots, waits for vmbox_never\n", current->pid);
	complete(&vmbox_holding);
	wait_for_completion(&vmbox_never);
	return 0;
}

static int slots_waiter(void *unused)
{
	wait_for_completion(&vmbox_holding);
	pr_info("vmbox_demo: pid %d waits for vmbox_slots\n", current->pid);
	down(&vmbox_slots);
	return 0;
}

static void vmbox_work(struct work_struct *work)
{
	pr_info("vmbox_demo: pid %d works\n", current->pid);
	wait_for_completion(&vmbox_never);
}

static DECLARE_WORK(vmbox_working, vmbox_work);

static int work_flusher(void *unused)
{
	schedule_work(&vmbox_working);
	msleep(200);
	pr_info("vmbox_demo: pid %d flushes the work\n", current->pid);
	flush_work(&vmbox_working);
	return 0;
}

static int stubborn_thread(void *unused)
{
	pr_info("vmbox_demo: pid %d does not stop\n", current->pid);
	wait_for_completion(&vmbox_never);
	return 0;
}

static int thread_stopper(void *unused)
{
	msleep(200);
	pr_info("vmbox_demo: pid %d stops the thread\n", current->pid);
	kthread_stop(vmbox_stubborn);
	return 0;
}

static int grace_period_reader(void *unused)
{
	/* Not on the CPU of the one that waits, which would never come to it. */
	set_cpus_allowed_ptr(current, cpumask_of(1));
	rcu_read_lock();
	preempt_disable();
	pr_info("vmbox_demo: pid %d reads under RCU\n", current->pid);
	while (vmbox_stays())
		cpu_relax();
	return 0;
}

static int grace_period_waiter(void *unused)
{
	set_cpus_allowed_ptr(current, cpumask_of(0));
	msleep(1000);
	pr_info("vmbox_demo: pid %d waits for a grace period\n", current->pid);
	synchronize_rcu();
	return 0;
}

static void waiting(void)
{
	run(config_reader, "vmbox-reader");
	run(config_writer, "vmbox-writer");
	run(config_late, "vmbox-late");
	run(slots_holder, "vmbox-holder");
	run(slots_waiter, "vmbox-waiter");
	run(work_flusher, "vmbox-flusher");
	/* CAUSE: waiting */
	vmbox_stubborn = run(stubborn_thread, "vmbox-stubborn");
	run(thread_stopper, "vmbox-stopper");
	run(grace_period_waiter, "vmbox-grace");
	/* Last: it takes a CPU. */
	msleep(800);
	run(grace_period_reader, "vmbox-rcu");
}

struct vmbox_driver {
	unsigned long flags;
	unsigned long (*poll)(unsigned long budget);
};
static_assert(offsetof(struct vmbox_driver, poll) == 8);

static as_written unsigned long vmbox_poll(struct vmbox_driver *driver)
{
	return 1 + READ_ONCE(driver->poll)(64); /* CAUSE: null-call */
}

static void null_call(void)
{
	struct vmbox_driver *driver = kzalloc(sizeof(*driver), GFP_KERNEL);

	if (driver)
		pr_info("vmbox_demo: %lu packets\n", vmbox_poll(driver));
}

/* Not __init: debuggers have no names for code in a section that is about to be freed. */
static int vmbox_demo_init(void)
{
	if (!strcmp(trigger, "null-pointer"))
		null_pointer();
	else if (!strcmp(trigger, "null-call"))
		null_call();
	else if (!strcmp(trigger, "use-after-free"))
		use_after_free();
	else if (!strcmp(trigger, "list-corruption"))
		list_corruption();
	else if (!strcmp(trigger, "bug"))
		bug();
	else if (!strcmp(trigger, "general-protection"))
		general_protection();
	else if (!strcmp(trigger, "stack-overflow"))
		stack_overflow();
	else if (!strcmp(trigger, "soft-lockup"))
		soft_lockup();
	else if (!strcmp(trigger, "rcu-stall"))
		rcu_stall();
	else if (!strcmp(trigger, "divide-error"))
		divide_error();
	else if (!strcmp(trigger, "warning"))
		warning();
	else if (!strcmp(trigger, "refcount"))
		refcount();
	else if (!strcmp(trigger, "buffer-overflow"))
		too_long(vmbox_label);
	else if (!strcmp(trigger, "stack-protector"))
		too_long(vmbox_name);
	else if (!strcmp(trigger, "out-of-bounds"))
		out_of_bounds();
	else if (!strcmp(trigger, "execute-data"))
		execute_data();
	else if (!strcmp(trigger, "user-copy"))
		user_copy();
	else if (!strcmp(trigger, "bad-page-state"))
		bad_page_state();
	else if (!strcmp(trigger, "double-fault"))
		double_fault();
	else if (!strcmp(trigger, "waiting"))
		waiting();
	else if (!strcmp(trigger, "workqueue"))
		workqueue();
	else if (!strcmp(trigger, "deadlock")) {
		run(deadlock_first, "vmbox-first");
		run(deadlock_second, "vmbox-second");
		run(deadlock_behind, "vmbox-behind");
	} else if (!strcmp(trigger, "convoy")) {
		int number;

		run(convoy_head, "vmbox-head");
		wait_for_completion(&vmbox_first);
		for (number = 0; number < 2000; number++)
			run(convoy_member, "vmbox-convoy");
	} else if (!strcmp(trigger, "rwsem")) {
		run(rwsem_writer, "vmbox-writer");
		run(rwsem_reader, "vmbox-reader");
	} else if (!strcmp(trigger, "rwsem-readers")) {
		run(readers_first, "vmbox-first");
		run(readers_second, "vmbox-second");
		run(readers_writer, "vmbox-writer");
	} else {
		return -EINVAL;
	}
	return 0;
}
module_init(vmbox_demo_init);

MODULE_DESCRIPTION("Ends its kernel in a known way");
MODULE_LICENSE("GPL");
