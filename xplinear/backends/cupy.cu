// CUDA kernels of the CuPy backend; law 4: each does what a reference in Python does.
//
// Compiled with DTYPE, that of the computation, STORED, the dtype of X, STANDARD, that in which
// features are standardized, and LOSS, one of the structs below; for `sgd` also with MEMBERS and
// CHUNKS, see there. Shapes as everywhere: n rows, p features, m models, k classes, c columns of
// weights. "Packed" arrays (m, c, P) hold the p weights of a column, its intercept as weight p,
// whose feature is 1 in all rows, and zeros: scores and gradients then need no second formula.

struct bfloat16 {
  unsigned short bits;
  __device__ operator float() const { return __uint_as_float((unsigned)bits << 16); }
};

#ifndef EMULATED
__device__ float widened(unsigned short half) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(half));
  return value;
}
#endif

struct float16 {
  unsigned short bits;
  __device__ operator float() const { return widened(bits); }
};

typedef DTYPE T;
typedef STORED S;
typedef STANDARD N;

#ifndef MEMBERS
#define MEMBERS 0
#define CHUNKS 4
#endif

#ifndef PAUSE  // what a thread does while it waits for another block; an emulation runs that block
#define PAUSE()
#define SHARED(name) extern __shared__ __align__(16) double name[]
#endif

__device__ T larger(T a, T b) { return b > a || b != b ? b : a; }  // unlike fmax, keeps a NaN

// log(smallest normal number / epsilon): see xplinear.losses.exponential.
const T least_exponent = (sizeof(T) == 4 ? -103 : -970) * 0.693147180559945309;

// A loss of the scores z_j of one row: t = z_y, the largest key, two sums over the classes, and
// from these the value and the gradient. `own` says that j = y.

struct Row {
  T t, margin, top, a, b;
  __device__ T key(T z, bool own) const { return 0; }
  __device__ T value() const { return a; }
  __device__ T violation(T z, bool own) const {
    T gap = z - t + margin;
    return own || gap < 0 ? 0 : gap;
  }
};

struct SoftmaxLoss : Row {
  __device__ T key(T z, bool own) const { return z; }
  __device__ T exponential(T z) const { return exp(larger(least_exponent, z - top)); }
  __device__ void add(T z, bool own) { a += exponential(z); }
  __device__ T value() const { return log(a) - (t - top); }
  __device__ T gradient(T z, bool own) const { return exponential(z) / a - own; }
};

struct MulticlassHingeLoss : Row {
  __device__ void add(T z, bool own) {
    a += violation(z, own);
    b += violation(z, own) > 0;
  }
  __device__ T gradient(T z, bool own) const { return own ? -b : T(violation(z, own) > 0); }
};

struct CrammerSingerLoss : Row {
  __device__ T key(T z, bool own) const { return z - t + (own ? 0 : margin); }
  __device__ void add(T z, bool own) { a += key(z, own) == top; }
  __device__ T value() const { return top; }
  __device__ T gradient(T z, bool own) const { return (key(z, own) == top) / a - own; }
};

struct SquaredHingeLoss : Row {
  __device__ void add(T z, bool own) {
    T v = violation(z, own);
    a += v * v;
    b += v;
  }
  __device__ T gradient(T z, bool own) const { return 2 * (own ? -b : violation(z, own)); }
};

struct SquaredErrorLoss : Row {
  __device__ void add(T z, bool own) { a += (z - own) * (z - own) / 2; }
  __device__ T gradient(T z, bool own) const { return z - own; }
};

struct AbsoluteErrorLoss : Row {
  __device__ void add(T z, bool own) { a += fabs(z - own); }
  __device__ T gradient(T z, bool own) const {
    T error = z - own;
    return error > 0 ? 1 : error < 0 ? -1 : error;  // 0 and NaN stay
  }
};

__device__ T sum(T a, T b) { return a + b; }

// Combine the values of a team: 1 to 32 neighbours of a warp, or the whole block.
__device__ T reduce(T value, int team, T* shared, T (*combine)(T, T)) {
  for (int offset = min(team, 32) / 2; offset > 0; offset /= 2)
    value = combine(value, __shfl_xor_sync(~0u, value, offset));
  if (team > 32) {
    __syncthreads();  // whoever still reads what the last call left
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = value;
    __syncthreads();
    value = shared[0];
    for (int warp = 1; warp < team / 32; ++warp) value = combine(value, shared[warp]);
  }
  return value;
}

// The loss of one row, by a team of threads. Writes `weight` times the gradient in the columns
// to g, which may be z. Threads of a row that does not exist take part with active = false.
__device__ T row_loss(const T* z, T* g, int y, T weight, int k, int c, T margin, bool active,
                      int lane, int team, T* shared) {
  auto score = [=](int j) { return c > 1 ? z[j] : j ? z[0] / 2 : -z[0] / 2; };
  LOSS loss{{active ? score(y) : 0, margin, __int_as_float(0xff800000), 0, 0}};  // top = -inf
  const int end = active ? k : 0;
  T top = loss.top;
  for (int j = lane; j < end; j += team) top = larger(top, loss.key(score(j), j == y));
  loss.top = reduce(top, team, shared, larger);
  for (int j = lane; j < end; j += team) loss.add(score(j), j == y);
  loss.a = reduce(loss.a, team, shared, sum);
  loss.b = reduce(loss.b, team, shared, sum);
  __syncwarp();  // all have read z[y] before another thread writes there
  if (c > 1) {
    for (int j = lane; j < end; j += team) g[j] = weight * loss.gradient(score(j), j == y);
  } else if (active && lane == 0) {
    g[0] = weight * (loss.gradient(score(1), y == 1) - loss.gradient(score(0), y == 0)) / 2;
  }
  return active ? weight * loss.value() : 0;
}

// Labels or weights of the rows: (n, columns), of which model j uses column models[j], or j, or the
// one. Without any, all are 1.
template <class V>
struct PerModel {
  const V* values;
  const int* models;
  int columns;
  __device__ int column(int model) const {
    return models ? models[model] : columns == 1 ? 0 : model;
  }
  __device__ V at(long long row, int column) const {
    return values ? values[row * columns + column] : 1;
  }
  __device__ V operator()(long long row, int model) const {
    return values ? at(row, column(model)) : 1;
  }
};

#ifndef PASS  // what follows is not for `cupy_pass.cu`

// Scores Z (n, m, c) to losses (n, m) and their gradient G (n, m, c), which may be Z.
// y and s are those of the rows `rows`, or of the first n. Without columns y is of classes, and 1
// where it is the model's target. Block (team, rows at a time).
extern "C" __global__ void loss(const T* Z, const int* y, const int* targets, const T* s,
                                const int* models, const long long* rows, T* values, T* G,
                                long long n, int m, int k, int c, int y_columns, int s_columns,
                                T margin) {
  SHARED(memory);
  long long i = (long long)blockIdx.x * blockDim.y + threadIdx.y;
  bool active = i < n * m;
  long long row = !active ? 0 : rows ? rows[i / m] : i / m;
  int label = !active ? 0 : y_columns ? PerModel<int>{y, targets, y_columns}(row, i % m)
                                      : y[row] == targets[i % m];
  T weight = active ? PerModel<T>{s, models, s_columns}(row, i % m) : 0;
  T value = row_loss(Z + i * c, G + i * c, label, weight, k, c, margin, active, threadIdx.x,
                     blockDim.x, (T*)memory);
  if (active && threadIdx.x == 0) values[i] = value;
}

// A feature as SGD sees it: standardized, (p, standards) of centre and scale or none, then centred.
struct Feature {
  N centre, scale;
  T mean;
  __device__ Feature(int f, int model, const N* centres, const N* scales, int standards,
                     const T* means, int columns)
      : centre(0), scale(1), mean(means[(long long)f * columns + (columns == 1 ? 0 : model)]) {
    if (!standards) return;
    long long at = (long long)f * standards + (standards == 1 ? 0 : model);
    centre = centres[at];
    scale = scales[at];
  }
  __device__ T operator()(S x) const { return T((N(x) - centre) * scale) - mean; }
};

// The rows `rows` of X, as SGD sees them, packed (n, P). One block per row.
extern "C" __global__ void gather(const S* X, long long row_stride, long long column_stride,
                                  const long long* rows, const N* centre, const N* scale,
                                  const T* mean, T* packed, int standards, int p, int P) {
  const S* x = X + rows[blockIdx.x] * row_stride;
  for (int f = threadIdx.x; f < P; f += blockDim.x)
    packed[(long long)blockIdx.x * P + f] =
        f < p ? Feature(f, 0, centre, scale, standards, mean, 1)(x[f * column_stride]) : T(f == p);
}

// What a mini-batch update needs besides the gradient; see xplinear.solvers.sgd.
struct Update {
  T momentum, l1, l2;  // l1, l2: shares of the penalty
  int nesterov;
  __device__ T operator()(T w, T* v, T gradient, T step, T shrink) const {
    T d = step * gradient;
    *v = momentum * *v - d;
    w += nesterov ? momentum * *v - d : *v;
    T size = (w < 0 ? -w : w) - l1 * shrink;
    w = l1 == 0 ? w : size < 0 ? 0 : w < 0 ? -size : size;
    return w / (1 + l2 * shrink);
  }
};

// One update of packed weights W (size,) by the gradient of a batch's summed loss.
extern "C" __global__ void update(const T* gradient, const T* step, const T* shrink, T* W, T* V,
                                  T* total, long long size, T rate, T factor, T momentum,
                                  int nesterov, T l1, T l2) {
  long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= size) return;
  Update advance{momentum, l1, l2, nesterov};
  W[i] = advance(W[i], V + i, gradient[i], rate * step[i], factor * shrink[i]);
  if (total) total[i] += W[i];
}

// Four neighbours, read and written at once.
struct alignas(16) Four {
  T v[4];
};

// Σ of four rows times four columns, kept in registers: 16 products for 2 reads of memory.
struct Square {
  T v[4][4] = {};
  __device__ void add(int i, T a, const Four& b) {
#pragma unroll
    for (int j = 0; j < 4; ++j) v[i][j] += a * b.v[j];
  }
  __device__ Four row(int i) const { return {v[i][0], v[i][1], v[i][2], v[i][3]}; }
};

// Σ of what `parts` slices of a product gave.
template <class Read>
__device__ Four folded(int parts, Read read) {
  Four sum = read(0);
#pragma unroll 8
  for (int part = 1; part < parts; ++part) {
    Four next = read(part);
    for (int j = 0; j < 4; ++j) sum.v[j] += next.v[j];
  }
  return sum;
}

// a / by for 0 <= a < 4·10⁶, in a third of the time.
struct Divisor {
  int by;
  float inverse;
  __device__ Divisor(int by) : by(by), inverse(1.0f / by) {}
  __device__ int quotient(int a) const { return int((a + 0.5f) * inverse); }
  __device__ int rest(int a) const { return a - quotient(a) * by; }
};

// Blocks of a cluster write to each other's shared memory, and a signal beside what was written
// counts the bytes: neither who writes nor who waits needs a fence, which would wait for all reads
// of global memory as well. Each use of a signal is armed by one thread of the block that waits.
#if MEMBERS > 1
typedef unsigned long long Signal;

#ifndef EMULATED
__device__ unsigned shared_address(const void* p) { return __cvta_generic_to_shared(p); }

__device__ void set_up(Signal* signal) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(shared_address(signal)) : "memory");
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ void arm(Signal* signal, unsigned bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(
                   shared_address(signal)),
               "r"(bytes)
               : "memory");
}

__device__ void await(Signal* signal, int parity) {
  asm volatile(
      "{\n.reg .pred done;\nagain:\n"
      "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;\n}" ::"r"(shared_address(signal)),
      "r"(parity)
      : "memory");
}

// Write to what `member` keeps where this block keeps `to`, and tell its signal.
__device__ void send(Four* to, const Four& four, Signal* signal, int member) {
  const uint4* parts = (const uint4*)&four;
  for (int i = 0; i < (int)(sizeof(Four) / 16); ++i)
    asm volatile(
        "{\n.reg .u32 there, bell;\n"
        "mapa.shared::cluster.u32 there, %0, %2;\nmapa.shared::cluster.u32 bell, %1, %2;\n"
        "st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [there], {%3, %4, %5, %6}, "
        "[bell];\n}" ::"r"(shared_address((uint4*)to + i)),
        "r"(shared_address(signal)), "r"(member), "r"(parts[i].x), "r"(parts[i].y),
        "r"(parts[i].z), "r"(parts[i].w)
        : "memory");
}
#endif
#endif

// All threads of a block or a cluster.
__device__ void meet() {
#if MEMBERS > 1
  __cluster_barrier_arrive();
  __cluster_barrier_wait();
#else
  __syncthreads();
#endif
}

// All threads of blocks anywhere, who count themselves: `due` have come when all have.
__device__ void meet_in_memory(unsigned* arrived, unsigned due) {
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    atomicAdd(arrived, 1u);
    while ((int)(*(volatile unsigned*)arrived - due) < 0) PAUSE();
    __threadfence();
  }
  __syncthreads();
}

const int THREADS = 256, WARPS = THREADS / 32;  // of a block of `sgd`

#if MEMBERS > 1
#define CLUSTER __cluster_dims__(MEMBERS, 1, 1)
#else
#define CLUSTER
#endif

// An epoch of mini-batch SGD in one launch. The blocks of a group share a model: each keeps `width`
// features of the weights and of the rows at hand in shared memory; the intercept is the weight of
// feature p, which is 1. For each tile of rows:
//
//   scores    each block multiplies its features; the sums of a row go to its owner,
//   loss      who adds them up and tells all the gradient in the scores,
//   gradient  of the own features, and behind the last tile of a batch the update.
//
// MEMBERS > 0: the group is a cluster, each block of which owns as many rows. MEMBERS = 0: the
// group's size is free, every block owns all rows, and they meet in global memory, so that all
// blocks must run at once (cooperative launch).
//
// No read of global memory is waited for: the rows of the next tile are on their way in registers
// (CHUNKS · 32 ≥ width), and the numbers of those after them, while this one is worked on.
extern "C" __global__ void CLUSTER
    __launch_bounds__(THREADS, sizeof(T) == 4 && CHUNKS * sizeof(S) <= 16 ? 2 : 1)
    sgd(const S* X, long long row_stride, long long column_stride, const int* y, const int* targets,
        const T* s, const int* models, const long long* rows, const T* factors, const N* centres,
        const N* scales, const T* means, const T* weight_step, const T* intercept_step,
        const T* weight_shrink, const T* W0, const T* b0, const T* V0, const T* a0, T* W, T* b,
        T* V, T* a, T* total_W, T* total_b, double* seen, T* exchange, unsigned* arrivals,
        long long n, int batch, int p, int m, int k, int c, int y_columns, int s_columns,
        int standards, int mean_columns, int blocks, int width, int tile, T margin, T momentum,
        int nesterov, T l1, T l2) {
  SHARED(memory);
  const int members = MEMBERS ? MEMBERS : blocks, thread = threadIdx.x;
  const int group = blockIdx.x / members, member = blockIdx.x % members;
  const int groups = gridDim.x / members, first = member * width;
  const int fours = (c + 3) / 4, columns = 4 * fours;  // of weights, the last ones perhaps 0
  const int ld = width | 4;  // an odd number of fours: those of eight rows fall on all memory banks
  const Update advance{momentum, l1, l2, nesterov};
  const PerModel<int> label_of{y, targets, max(y_columns, 1)};
  const PerModel<T> weight_of{s, models, s_columns};

#if MEMBERS > 1
  Signal *scores_are_here = (Signal*)memory, *gradient_is_here = scores_are_here + 1;
  if (thread == 0) {
    set_up(scores_are_here);
    set_up(gradient_is_here);
  }
#endif
  Feature* features = (Feature*)(memory + 2);
  long long* index = (long long*)(features + width);
  T *step = (T*)(index + tile), *shrink = step + width, *x = shrink + width;
  T *w = x + tile * ld, *v = w + width * columns, *gradient = v + width * columns;
  T *z = gradient + width * columns, *inbox = MEMBERS > 1 ? z + tile * columns : z;
  T* partial = inbox + tile * columns;
  const Divisor by_fours(fours), by_columns(columns), by_quads(width / 4);

  const int own = MEMBERS ? tile / members : tile, first_own = MEMBERS ? member * own : 0;
  const int team = min(32, THREADS / own), lane = thread % team, mine = thread / team;
  const int row = first_own + mine;  // of the tile, whose loss this thread helps with
  unsigned due = 0;
  int parity = 0;

  for (int model = group; model < m; model += groups) {
    // Where the weight of local feature f and column j is in arrays (p, m, c) and (m, c).
    auto weight = [=](auto* W, auto* b, int f, int j) {
      return first + f < p ? W + ((long long)(first + f) * m + model) * c + j : b + model * c + j;
    };
    for (int f = thread; f < width; f += THREADS) {
      bool real = first + f < p;
      if (real)
        features[f] = Feature(first + f, model, centres, scales, standards, means, mean_columns);
      step[f] = first + f <= p ? *weight(weight_step, intercept_step, f, 0) : 0;
      shrink[f] = real ? *weight(weight_shrink, weight_shrink, f, 0) : 0;
    }
    for (int i = thread; i < width * columns; i += THREADS) {
      int f = by_columns.quotient(i), j = by_columns.rest(i);
      bool there = first + f <= p && j < c;
      w[i] = there ? *weight(W0, b0, f, j) : 0;
      v[i] = there ? *weight(V0, a0, f, j) : 0;
    }

    const int y_column = y_columns ? label_of.column(model) : 0;
    const int positive = y_columns ? -1 : targets[model];
    const int s_column = s_columns ? weight_of.column(model) : 0;
    S staged[8 * CHUNKS];  // of the next tile, with the label and the weight of this team's row
    int label = 0;
    T importance = 0;
    // Start to read the tile whose rows `index` has.
    auto fetch = [&](long long start) {
      const int there = min((long long)tile, n - start);
#pragma unroll
      for (int u = 0; u < 8; ++u) {
        const int r = thread / 32 + u * WARPS;
        const S* from = X + (r < there ? index[r] : 0) * row_stride;
#pragma unroll
        for (int q = 0; q < CHUNKS; ++q) {
          const int f = thread % 32 + 32 * q;
          staged[u * CHUNKS + q] = S();
          if (r < there && f < width && first + f < p)
            staged[u * CHUNKS + q] = from[(first + f) * column_stride];
        }
      }
      if (mine < own && row < there) {
        label = label_of.at(index[row], y_column);
        importance = weight_of.at(index[row], s_column);
      }
    };
    auto store = [&] {
#pragma unroll
      for (int q = 0; q < CHUNKS; ++q) {
        const int f = thread % 32 + 32 * q;
        if (f >= width) continue;
        const Feature feature = features[f];
        const bool real = first + f < p;
#pragma unroll
        for (int u = 0; u < 8; ++u) {
          const int r = thread / 32 + u * WARPS;
          if (r < tile)
            x[r * ld + f] = real ? feature(staged[u * CHUNKS + q]) : T(first + f == p);
        }
      }
    };
    auto row_at = [=](long long i) { return thread < tile && i < n ? rows[i] : 0; };

    if (thread < tile) index[thread] = row_at(thread);
    __syncthreads();
    fetch(0);
    __syncthreads();
    if (thread < tile) index[thread] = row_at(min((long long)min(tile, batch), n) + thread);
    store();
    meet();  // the others' memory is there, and their signals

    double losses = 0;
    int begin = 0;  // of the tile in its batch
    for (long long start = 0, t = 0; start < n;) {
      const int size = min((long long)batch, n - (start - begin)), r = min(tile, size - begin);
      const bool last = begin + r == size;
      const long long next = start + r;
      const int then = min(tile, last ? (int)min((long long)batch, n - next) : size - begin - r);
      const int now_label = positive < 0 ? label : label == positive;
      const T now_importance = importance, factor = factors[t];
      fetch(next);
      const long long later = row_at(next + then + thread);

      const int owned = max(0, min(own, r - first_own));
#if MEMBERS > 1
      if (thread == 0) {
        arm(scores_are_here, members * owned * fours * sizeof(Four));
        arm(gradient_is_here, (r - owned) * fours * sizeof(Four));
      }
#endif

      const Divisor by_quarter((r + 3) / 4);
      const int quarter = by_quarter.by, tiles = quarter * fours;
      const int slices = max(1, min(Divisor(tiles).quotient(THREADS), width / 4));
      for (int unit = thread; unit < tiles * slices; unit += THREADS) {
        const int j = by_fours.rest(unit), rest = by_fours.quotient(unit);
        const int i = by_quarter.rest(rest), slice = by_quarter.quotient(rest);
        Square sum;
#pragma unroll 2
        for (int l = 4 * slice; l < width; l += 4 * slices) {
          Four rows[4];
#pragma unroll
          for (int q = 0; q < 4; ++q) rows[q] = *(Four*)(x + (i + q * quarter) * ld + l);
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            const Four four = *(Four*)(w + (l + e) * columns + 4 * j);
#pragma unroll
            for (int q = 0; q < 4; ++q) sum.add(q, rows[q].v[e], four);
          }
        }
#pragma unroll
        for (int q = 0; q < 4; ++q)
          if (i + q * quarter < r)
            ((Four*)partial)[(slice * r + i + q * quarter) * fours + j] = sum.row(q);
      }
      __syncthreads();

      // A row's sums, from each of the members.
      Four* box = (Four*)(MEMBERS ? inbox : exchange);
      if (!MEMBERS) box += ((long long)group * 2 + parity) * members * tile * fours;
      box += member * own * fours;
      for (int i = thread; i < r * fours; i += THREADS) {
        const Four sum =
            folded(slices, [=](int part) { return ((Four*)partial)[part * r * fours + i]; });
#if MEMBERS > 1
        const int owner = by_fours.quotient(i) / own;  // a power of 2, which nobody knows
        send(box + i - owner * own * fours, sum, scores_are_here, owner);
#else
        box[i] = sum;
#endif
      }
      box -= member * own * fours;
#if MEMBERS > 1
      await(scores_are_here, parity);
#endif
      if (MEMBERS == 0) meet_in_memory(arrivals + group, due += members);
      if (MEMBERS != 1)
        for (int i = thread; i < owned * fours; i += THREADS)
          ((Four*)z)[first_own * fours + i] = folded(members, [=](int other) {
            const Four* from = box + other * own * fours + i;
            if (MEMBERS) return *from;
            return Four{__ldcg(from->v), __ldcg(from->v + 1), __ldcg(from->v + 2),
                        __ldcg(from->v + 3)};
          });
      __syncthreads();

      const bool active = mine < owned;
      T* scores = z + row * columns;
      const T value = row_loss(scores, scores, active ? now_label : 0, active ? now_importance : 0,
                               k, c, margin, active, lane, team, 0);
      if (lane == 0) losses += value;
#if MEMBERS > 1
      __syncwarp();
      for (int i = lane; active && i < (members - 1) * fours; i += team) {
        const int other = by_fours.quotient(i);
        Four* four = (Four*)scores + by_fours.rest(i);
        send(four, *four, gradient_is_here, other + (other >= member));
      }
      __syncthreads();
      await(gradient_is_here, parity);
#else
      __syncthreads();
#endif
      parity = 1 - parity;

      const int quads = width / 4, squares = quads * fours;
      const int pieces = max(1, min(Divisor(squares).quotient(THREADS), r));
      for (int unit = thread; unit < squares * pieces; unit += THREADS) {
        const int j = by_fours.rest(unit), rest = by_fours.quotient(unit);
        const int f = by_quads.rest(rest), piece = by_quads.quotient(rest);
        Square sum;
#pragma unroll 4
        for (int l = piece; l < r; l += pieces) {
          const Four here = *(Four*)(x + l * ld + 4 * f), four = *(Four*)(z + l * columns + 4 * j);
#pragma unroll
          for (int q = 0; q < 4; ++q) sum.add(q, here.v[q], four);
        }
#pragma unroll
        for (int q = 0; q < 4; ++q)
          ((Four*)partial)[(piece * width + 4 * f + q) * fours + j] = sum.row(q);
      }
      __syncthreads();

      const T rate = factor / size;
      for (int i = thread; i < width * fours; i += THREADS) {
        Four *sofar = (Four*)gradient + i, *ours = (Four*)w + i, *speed = (Four*)v + i;
        Four sum =
            folded(pieces, [=](int part) { return ((Four*)partial)[part * width * fours + i]; });
        const int f = by_fours.quotient(i);
        for (int q = 0; q < 4; ++q) {
          if (begin) sum.v[q] += sofar->v[q];
          sofar->v[q] = sum.v[q];
          if (!last) continue;
          ours->v[q] = advance(ours->v[q], speed->v + q, sum.v[q], rate * step[f],
                               factor * shrink[f]);
          const int j = by_fours.rest(i) * 4 + q;
          if (total_W && first + f <= p && j < c)
            atomicAdd(weight(total_W, total_b, f, j), ours->v[q]);  // alone there, and does not wait
        }
      }
      store();
      if (thread < tile) index[thread] = later;
      __syncthreads();
      start = next;
      begin = last ? 0 : begin + r;
      t += last;
    }

    for (int i = thread; i < width * columns; i += THREADS) {
      int f = by_columns.quotient(i), j = by_columns.rest(i);
      if (first + f > p || j >= c) continue;
      *weight(W, b, f, j) = w[i];
      *weight(V, a, f, j) = v[i];
    }
    double* by_thread = (double*)partial;
    by_thread[thread] = losses;
    __syncthreads();
    if (thread == 0) {
      double sum = 0;
      for (int i = 0; i < THREADS; ++i) sum += by_thread[i];
      seen[model * max(MEMBERS, 1) + (MEMBERS ? member : 0)] = sum;  // alike of all, if MEMBERS = 0
    }
    meet();
  }
}

#endif
