/* What a test may ask of the fake system: faults to inject, and what is alive. Test code.
 *
 * The fakes are two libraries, as on a Mac: IOSurface (this header's functions live there) and
 * AppleNeuralEngine, which evaluates with the host executor. They are strict: a call out of order, an
 * unbalanced lock or a file that is not there ends the process with a sentence. They encode what this
 * project believes about the real ones, so they show that our code is consistent with that belief.
 */
#ifndef FAKE_H
#define FAKE_H

/* Call number `first` (0 is the next one) and the `count - 1` after it of whatever `name` names will
 * fail; a negative count is for ever. The names are those that fake_fault is called with; also from
 * the environment: ANEFAST_FAKE_FAULTS="compile:2:1 load:0:-1". */
void fake_inject(const char *name, long first, long count);
void fake_heal(void); /* no faults any more, and no settings */

/* What kind of system it is: "loaded" (most programs loaded at once), "rows" (bytes that rows are a
 * multiple of), "slow_after" (evaluations after which each takes "slow_us" longer), "forgets" (what other
 * processes compiled), "no_concat" (14: the compiler takes none for h14). 0 is none; also from
 * the environment: ANEFAST_FAKE_SETTINGS="loaded:4 rows:128". */
void fake_set(const char *name, long value);

/* How many there are now: "surfaces", "locks", "descriptors", "models", "wrapped", "requests",
 * "loaded"; or were: "evaluations", "compiles", "brought" (loads of what another process compiled). */
long fake_count(const char *name);

/* For the fakes. */
int fake_fault(const char *name);  /* counts the call; 1 where it has to fail */
void fake_hang(const char *fault); /* never returns where that fault is due */
long fake_setting(const char *name);
void fake_add(const char *name, long n);
void fake_refuse(const char *sentence, ...) __attribute__((noreturn, format(printf, 1, 2)));

#endif
