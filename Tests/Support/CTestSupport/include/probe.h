#ifndef TEST_PROBE_H
#define TEST_PROBE_H

/// Actions that a confined process must not be able to do. Each returns 0 if it succeeded, otherwise -errno.
int test_probe_count(void);
const char *test_probe_name(int index);
int test_probe(int index, int pid);
/// A system call of another architecture.
void test_other_architecture(void);

#endif
