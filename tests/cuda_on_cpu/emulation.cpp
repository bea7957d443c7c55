// Runs CUDA kernels on a CPU: each thread of a grid is a coroutine, which gives way where CUDA
// threads wait. Which of them goes on is random, and blocks stand still at times, so that a
// missing barrier shows.
// SOURCE is the file with the kernels.

#undef _FORTIFY_SOURCE  // its longjmp stays on one stack
#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <random>
#include <tuple>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __restrict__
#define __launch_bounds__(...)
#define __cluster_dims__(...)
#define __grid_constant__
#define SHARED(name) double* name = current->block->shared.data()
#define PAUSE() give_way()
#define EMULATED
#define MOST_ROWS 8

using std::exp;
using std::expm1;
using std::floor;
using std::log;
using std::log1p;
using std::log2;
using std::sqrt;
using std::max;
using std::min;

inline long long min(long long a, int b) { return a < b ? a : b; }
inline long long min(int a, long long b) { return a < b ? a : b; }

struct Index {
  unsigned x, y, z;
};

struct Barrier {
  unsigned size = 0, arrived = 0, passed = 0;
};

struct Block {
  Index index;
  std::vector<double> shared;
  Barrier barrier, meeting;
  std::vector<Barrier> warps;
  std::vector<double> exchanged;
  Block* cluster = nullptr;  // the first of it
};

struct Coroutine {
  ucontext_t context;  // where it starts
  jmp_buf here;        // where it goes on: a swapcontext would ask the system twice
  bool started = false;
  Block* block;
  unsigned id;
  Index thread;
  bool done = false;
  struct Copy {
    unsigned group;
    void* to;
    const void* from;
    size_t bytes;
  };
  std::deque<Copy> copies;
  unsigned groups = 0;
  unsigned ticket = 0;
};

const size_t STACK = 1 << 15;
static std::vector<std::unique_ptr<char[]>> stacks;  // kept: fresh memory costs more than a launch

static jmp_buf scheduler;
static Coroutine* current;
static Index threadIdx, blockIdx, blockDim, gridDim;
static std::function<void()> body;
static unsigned cluster_size = 1;

static void give_way() {
  if (!_setjmp(current->here)) _longjmp(scheduler, 1);
}

static void go_on() {
  if (_setjmp(scheduler)) return;
  if (current->started) _longjmp(current->here, 1);
  current->started = true;
  setcontext(&current->context);
}

static void wait_at(Barrier& barrier) {
  unsigned passed = barrier.passed;
  if (++barrier.arrived == barrier.size) {
    barrier.arrived = 0;
    ++barrier.passed;
  }
  while (barrier.passed == passed) give_way();
}

static void __syncthreads() { wait_at(current->block->barrier); }

static void __syncwarp() { wait_at(current->block->warps[current->id / 32]); }

template <class V>
static V __shfl_xor_sync(unsigned, V value, int offset) {
  Block* block = current->block;
  unsigned id = current->id;
  std::memcpy(&block->exchanged[id], &value, sizeof value);
  wait_at(block->warps[id / 32]);
  std::memcpy(&value, &block->exchanged[id ^ offset], sizeof value);
  wait_at(block->warps[id / 32]);
  return value;
}

static void __threadfence() {}

// A block's barrier counts its threads, that of a cluster's first block also those of all.
static Barrier* cluster_barrier() { return &current->block->cluster->meeting; }

static void __cluster_barrier_arrive() {
  Barrier& barrier = *cluster_barrier();
  current->ticket = barrier.passed;
  if (++barrier.arrived == barrier.size) {
    barrier.arrived = 0;
    ++barrier.passed;
  }
}

static void __cluster_barrier_wait() {
  while (cluster_barrier()->passed == current->ticket) give_way();
}

// What is on its way to the shared memory of another block; see `send` in the source.
static std::vector<std::function<void()>> mail;

struct State {
  int bytes;
  short armed, phase;
};

static void settle(State* signal) {
  if (!signal->armed || signal->bytes) return;
  signal->armed = 0;
  signal->phase ^= 1;
}

template <class Signal>
static void set_up(Signal* signal) {
  *(State*)signal = {};
}

template <class Signal>
static void arm(Signal* signal, unsigned bytes) {
  State* state = (State*)signal;
  if (state->armed) std::abort();
  state->bytes += bytes;
  state->armed = 1;
  settle(state);
}

template <class Signal>
static void await(Signal* signal, int parity) {
  while (((State*)signal)->phase == parity) give_way();
}

template <class Four, class Signal>
static void send(Four* to, const Four& four, Signal* signal, int member) {
  char* there = (char*)current->block->cluster[member].shared.data();
  char* here = (char*)current->block->shared.data();
  State* state = (State*)(there + ((char*)signal - here));
  Four* target = (Four*)(there + ((char*)to - here));
  mail.push_back([=] {
    *target = four;
    state->bytes -= sizeof(Four);
    settle(state);
  });
}

template <class V>
static V atomicAdd(V* address, V value) {
  give_way();  // other threads may come first
  V before = *address;
  *address += value;
  return before;
}

template <class V>
static V __ldcg(const V* address) {
  return *address;
}

template <class To, class From>
static To as(From from) {
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}
static float __uint_as_float(unsigned bits) { return as<float>(bits); }
static float __int_as_float(unsigned bits) { return as<float>(bits); }

static float widened(unsigned short half) {
  unsigned magnitude = (half & 0x7fffu) << 13;
  float value = as<float>(magnitude) * 0x1p112f;
  if (magnitude >= 0x7c00u << 13) value = as<float>(magnitude | 0x7f800000u);
  return half >> 15 ? -value : value;
}

// A copy from global to shared memory shows when its group is awaited, not before.
template <int BYTES>
static void copy(void* to, const void* from) {
  static_assert(BYTES == 4 || BYTES == 8 || BYTES == 16);
  if ((size_t)to % BYTES || (size_t)from % BYTES) std::abort();
  current->copies.push_back({current->groups, to, from, BYTES});
}
static void close_group() { ++current->groups; }
template <int LEFT>
static void await_groups() {
  auto& copies = current->copies;
  while (!copies.empty() && copies.front().group + LEFT < current->groups) {
    const auto& one = copies.front();
    std::memcpy(one.to, one.from, one.bytes);
    copies.pop_front();
  }
}

#include SOURCE

static void start() {
  body();
  current->done = true;
  give_way();
}

const int guard = 64;  // numbers behind the shared memory, which nobody may write to

static void run(Index grid, Index block, size_t shared_bytes) {
  gridDim = grid;
  blockDim = block;
  unsigned threads = block.x * block.y;
  std::vector<Block> blocks(grid.x);
  std::vector<Coroutine> coroutines(size_t(grid.x) * threads);
  for (unsigned b = 0; b < grid.x; ++b) {
    blocks[b].index = {b, 0, 0};
    blocks[b].shared.assign(shared_bytes / 8 + 1 + guard, NAN);
    std::fill(blocks[b].shared.end() - guard, blocks[b].shared.end(), 12345.0);
    blocks[b].barrier.size = threads;
    blocks[b].cluster = &blocks[b / cluster_size * cluster_size];
    blocks[b].meeting.size = threads * cluster_size;
    blocks[b].exchanged.resize(threads);
    for (unsigned first = 0; first < threads; first += 32)
      blocks[b].warps.push_back({std::min(32u, threads - first)});
    for (unsigned t = 0; t < threads; ++t) {
      Coroutine& one = coroutines[size_t(b) * threads + t];
      one.block = &blocks[b];
      one.id = t;
      one.thread = {t % block.x, t / block.x, 0};
      getcontext(&one.context);
      size_t index = &one - coroutines.data();
      if (index == stacks.size()) stacks.emplace_back(new char[STACK]);
      one.context.uc_stack.ss_sp = stacks[index].get();
      one.context.uc_stack.ss_size = STACK;
      one.context.uc_link = nullptr;
      makecontext(&one.context, start, 0);
    }
  }
  std::mt19937 random(0);
  std::vector<int> asleep(grid.x);
  std::vector<size_t> left(coroutines.size());
  for (size_t i = 0; i < left.size(); ++i) left[i] = i;
  while (!left.empty()) {
    std::shuffle(left.begin(), left.end(), random);
    std::vector<bool> still(grid.x);
    for (unsigned b = 0; b < grid.x; ++b) {
      if (grid.x > 1 && random() % 100 == 0) asleep[b] = 100;  // others may run far ahead
      still[b] = asleep[b] ? asleep[b]-- : random() % 2;
    }
    std::shuffle(mail.begin(), mail.end(), random);
    for (size_t arriving = mail.size() / 2 + mail.size() % 2; arriving > 0; --arriving) {
      mail.back()();
      mail.pop_back();
    }
    for (size_t i : left) {
      current = &coroutines[i];
      if (still[i / threads] || random() % 4 == 0) continue;
      threadIdx = current->thread;
      blockIdx = current->block->index;
      go_on();
    }
    left.erase(std::remove_if(left.begin(), left.end(),
                              [&](size_t i) { return coroutines[i].done; }),
               left.end());
  }
  for (const Block& block : blocks)
    for (size_t i = block.shared.size() - guard; i < block.shared.size(); ++i)
      if (block.shared[i] != 12345.0) throw "shared memory";
}

template <class... A, size_t... I>
static void launch(void (*kernel)(A...), Index grid, Index block, size_t shared_bytes, void** args,
                   const size_t* sizes, size_t count, std::index_sequence<I...>) {
  const size_t expected[] = {sizeof(A)...};
  if (count != sizeof...(A) || !std::equal(sizes, sizes + count, expected)) throw "arguments";
  if (grid.x % cluster_size) throw "clusters";
  body = [=] { kernel(*static_cast<A*>(args[I])...); };
  run(grid, block, shared_bytes);
}

template <class... A>
static int launch(void (*kernel)(A...), const unsigned* shape, size_t shared_bytes, void** args,
                  const size_t* sizes, size_t count) {
  try {
    launch(kernel, {shape[0], 1, 1}, {shape[1], shape[2], 1}, shared_bytes, args, sizes, count,
           std::index_sequence_for<A...>());
    return 0;
  } catch (const char*) {
    return 1;
  }
}

#define LAUNCHER(kernel)                                                                        \
  extern "C" int launch_##kernel(const unsigned* shape, size_t shared_bytes, void** args,       \
                                 const size_t* sizes, size_t count) {                           \
    return launch(kernel, shape, shared_bytes, args, sizes, count);                             \
  }
#if defined(ROOM)  // of `fusion.cu`
LAUNCHER(fused)
LAUNCHER(write_rows)
#elif !defined(PASS)
LAUNCHER(loss)
LAUNCHER(gather)
LAUNCHER(update)
#if MEMBERS > 1
static bool clustered = (cluster_size = MEMBERS);
#endif
LAUNCHER(sgd)
#else
LAUNCHER(sum_real_real)
LAUNCHER(sum_real_wide)
LAUNCHER(sum_wide_real)
LAUNCHER(sum_wide_wide)
#ifdef COLUMNS
LAUNCHER(one_read)
#endif
#endif
