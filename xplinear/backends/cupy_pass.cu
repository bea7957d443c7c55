// Kernels of a full pass, compiled with PASS and the losses of `cupy.cu`, which comes before.
//
// `one_read` makes scores, losses, gradient and their sums of rows that are read once. A block goes
// through tiles of rows in shared memory: the next ones arrive while one is worked on. COLUMNS are
// the m·c columns of all models, GROUPS how many times four features a thread may have to sum.

#ifndef EMULATED  // how bytes get from global to shared memory; an emulation copies them late
#if __CUDA_ARCH__ >= 800
template <int BYTES>
__device__ void copy(void* to, const void* from) {
  unsigned there = __cvta_generic_to_shared(to);
  if (BYTES == 16)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(there), "l"(from) : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(there), "l"(from), "n"(BYTES)
                 : "memory");
}
// All copies from here on belong to the next group.
__device__ void close_group() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Wait until no more than so many groups are under way.
template <int GROUPS_LEFT>
__device__ void await_groups() {
  asm volatile("cp.async.wait_group %0;" ::"n"(GROUPS_LEFT) : "memory");
}
#else
template <int BYTES>
__device__ void copy(void* to, const void* from) {
  struct alignas(BYTES) Bytes {
    char bytes[BYTES];
  };
  *(Bytes*)to = *(const Bytes*)from;
}
__device__ void close_group() {}
template <int GROUPS_LEFT>
__device__ void await_groups() {}
#endif
#endif

#ifndef MOST_ROWS  // that a thread adds up before it lays the sum aside: more would cost digits
#define MOST_ROWS 1024
#endif

template <class V>
struct alignas(4 * sizeof(V) < 16 ? 4 * sizeof(V) : 16) Quad {
  V of[4];
};

#ifdef COLUMNS

// In units of four numbers: those of a row of G, and of four features of W. Odd, so that four
// groups of features next to each other lie on different memory banks.
const int G_QUADS = (COLUMNS + 3) / 4, W_QUADS = COLUMNS | 1;

// W (m, c, p), b (m, c), centre and scale (1 or m, p) or null; y, targets, s and models as in
// PerModel. Writes for each block partial (m, c, P): sums over its rows of the gradient in W, and at
// P − 4 in b; and losses (m). X lies in rows, whose bytes are a multiple of `unit` (0: of none of 4,
// 8 and 16). A tile has `rows` rows of `ld` elements each.
extern "C" __global__ void __launch_bounds__(256, sizeof(T) == 4 && GROUPS * COLUMNS <= 10 ? 2 : 1)
    one_read(const S* __restrict__ X, long long row_stride, const int* __restrict__ y,
             const int* __restrict__ targets, const T* __restrict__ s,
             const int* __restrict__ models, const T* __restrict__ W, const T* __restrict__ b,
             const T* __restrict__ centre, const T* __restrict__ scale, T* __restrict__ partial,
             double* __restrict__ losses, long long n, int p, int m, int k, int c, int y_columns,
             int s_columns, int standards, int unit, int rows, int ld, int stages, int team,
             T margin) {
  SHARED(memory);
  const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32, warps = 8;
  const int quads = (p + 3) / 4;  // of features
  S* tiles = (S*)memory;
  Quad<T>* w = (Quad<T>*)(tiles + stages * rows * ld);
  Quad<T>* scratch = w + quads * W_QUADS;
  Quad<T>* z = scratch + max(256, 32 * COLUMNS);
  T *bias = (T*)(z + rows * G_QUADS), *weights = bias + COLUMNS;
  int* labels = (int*)(weights + stages * rows * m);

  auto own = [&](int model) { return standards == 1 ? 0 : (long long)model * p; };
  for (int j = 0; j < COLUMNS; ++j)
    for (int f = thread; f < 4 * quads; f += blockDim.x) {
      T value = f < p ? W[(long long)j * p + f] : 0;
      w[f / 4 * W_QUADS + j].of[f % 4] = scale && f < p ? value * scale[own(j / c) + f] : value;
    }
  for (int i = thread; i < stages * rows; i += blockDim.x)
    for (int f = p; f < 4 * quads; ++f) tiles[i * ld + f] = S{};
  __syncthreads();
  for (int j = warp; j < COLUMNS; j += warps) {
    T shift = 0;
    for (int f = lane; centre && f < p; f += 32)
      shift += centre[own(j / c) + f] * w[f / 4 * W_QUADS + j].of[f % 4];
    shift = reduce(shift, 32, 0, sum);
    if (lane == 0) bias[j] = b[j] - shift;
  }

  auto load = [&](long long first, int stage) {
    const int size = min((long long)rows, n - first);
    const int units = unit ? p * (int)sizeof(S) / unit : p;
    for (int r = warp; r < size; r += warps) {
      const S* from = X + (first + r) * row_stride;
      S* to = tiles + (stage * rows + r) * ld;
      for (int i = lane; i < units; i += 32) {
        if (unit == 16)
          copy<16>((char*)to + i * 16, (const char*)from + i * 16);
        else if (unit == 8)
          copy<8>((char*)to + i * 8, (const char*)from + i * 8);
        else if (unit == 4)
          copy<4>((char*)to + i * 4, (const char*)from + i * 4);
        else
          to[i] = from[i];
      }
    }
    for (int i = thread; i < size * m; i += blockDim.x) {
      int model = i % m;
      long long row = first + i / m;
      auto column = [&](const int* chosen, int columns) {
        return row * columns + (chosen ? chosen[model] : columns == 1 ? 0 : model);
      };
      copy<4>(labels + stage * rows * m + i, y + column(targets, y_columns));
      if (s) copy<sizeof(T)>(weights + stage * rows * m + i, s + column(models, s_columns));
    }
  };

  // A warp takes 4 slices of the features of 16 rows; `slicing` warps share these rows.
  const int slicing = 128 / rows, slice = warp % slicing * 4 + lane / 8;
  const int row = warp / slicing * 16 + lane % 8;
  // The losses of a model are those of `per_model` teams.
  const int member = thread % team, per_model = (int)blockDim.x / team / m;
  const int model = thread / team / per_model;
  // A thread sums the gradient of four features, of every row or of each `parts`-th.
  int width = blockDim.x;
  while (width / 2 >= quads) width /= 2;
  const int quad = thread % width, part = thread / width, parts = blockDim.x / width;
  Quad<T> gradient[GROUPS][COLUMNS] = {};
  T intercept = 0;
  double loss = 0;

  const int P = 4 * quads + 4;
  partial += (long long)blockIdx.x * COLUMNS * P;
  int summed = 0;
  bool before = false;
  auto flush = [&] {
#pragma unroll
    for (int group = 0; group < GROUPS; ++group)
#pragma unroll
      for (int j = 0; j < COLUMNS; ++j) {
        Quad<T> total = gradient[group][j];
        for (int half = parts / 2; half > 0; half /= 2) {
          scratch[thread] = total;
          __syncthreads();
          for (int e = 0; part < half && e < 4; ++e)
            total.of[e] += scratch[thread + half * width].of[e];
          __syncthreads();
        }
        const int at = quad + group * width;
        if (part == 0 && at < quads) {
          Quad<T>* to = (Quad<T>*)(partial + j * P) + at;
          for (int e = 0; before && e < 4; ++e) total.of[e] += to->of[e];
          *to = total;
        }
        gradient[group][j] = Quad<T>{};
      }
    if (warp == warps - 1 && lane < COLUMNS) {
      T* to = partial + lane * P + P - 4;
      *to = before ? *to + intercept : intercept;
      intercept = 0;
    }
    before = true;
    summed = 0;
  };

  const long long stride = (long long)gridDim.x * rows;
  long long next = (long long)blockIdx.x * rows, first = next;
  for (int stage = 0; stage < stages - 1; ++stage, next += stride) {
    if (next < n) load(next, stage);
    close_group();
  }
  for (int stage = 0; first < n; first += stride, next += stride) {
    if (stages > 2)
      await_groups<1>();
    else
      await_groups<0>();
    __syncthreads();  // this tile is there, and all are done with the one before
    if (next < n) load(next, (stage + stages - 1) % stages);
    close_group();
    const int size = min((long long)rows, n - first);
    const S* tile = tiles + stage * rows * ld;

    T scores[2][COLUMNS] = {};
    for (int i = slice; i < quads; i += 4 * slicing) {
      Quad<S> here = *(Quad<S>*)(tile + row * ld + 4 * i);
      Quad<S> there = *(Quad<S>*)(tile + (row + 8) * ld + 4 * i);
      T x[2][4];
#pragma unroll
      for (int e = 0; e < 4; ++e) x[0][e] = T(here.of[e]), x[1][e] = T(there.of[e]);
#pragma unroll
      for (int j = 0; j < COLUMNS; ++j) {
        Quad<T> v = w[i * W_QUADS + j];
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          scores[0][j] += x[0][e] * v.of[e];
          scores[1][j] += x[1][e] * v.of[e];
        }
      }
    }
    const bool second = lane & 16;
    T* shares = (T*)scratch + (warp % slicing * rows + row + 8 * second) * COLUMNS;
#pragma unroll
    for (int j = 0; j < COLUMNS; ++j) {
      T keep = second ? scores[1][j] : scores[0][j], give = second ? scores[0][j] : scores[1][j];
      T share = keep + __shfl_xor_sync(~0u, give, 16);
      share += __shfl_xor_sync(~0u, share, 8);
      if (!(lane & 8)) shares[j] = share;
    }
    __syncthreads();
    for (int i = thread; i < rows * COLUMNS; i += blockDim.x) {
      T score = bias[i % COLUMNS];
      for (int other = 0; other < slicing; ++other)
        score += ((T*)scratch)[other * rows * COLUMNS + i];
      ((T*)(z + i / COLUMNS * G_QUADS))[i % COLUMNS] = score;
    }
    __syncthreads();

    for (int start = 0; start < rows; start += per_model) {
      const int r = start + thread / team % per_model;
      const bool active = r < size && model < m;
      const int at = (stage * rows + r) * m + model;
      T* g = (T*)(z + r * G_QUADS) + model * c;
      T value = row_loss(g, g, active ? labels[at] : 0, active && s ? weights[at] : 1, k, c,
                         margin, active, member, team, 0);
      if (member == 0) loss += value;
    }
    __syncthreads();

#pragma unroll
    for (int group = 0; group < GROUPS; ++group) {
      const int at = quad + group * width;
      if (at >= quads) break;
#pragma unroll 2
      for (int r = part; r < size; r += parts) {
        Quad<T> g[G_QUADS];
#pragma unroll
        for (int j = 0; j < G_QUADS; ++j) g[j] = z[r * G_QUADS + j];
        Quad<S> x = *(Quad<S>*)(tile + r * ld + 4 * at);
#pragma unroll
        for (int e = 0; e < 4; ++e)
#pragma unroll
          for (int j = 0; j < COLUMNS; ++j)
            gradient[group][j].of[e] += g[j / 4].of[j % 4] * T(x.of[e]);
      }
    }
    if (warp == warps - 1 && lane < COLUMNS)
      for (int r = 0; r < size; ++r) intercept += ((T*)(z + r * G_QUADS))[lane];
    summed += rows;
    if (summed >= MOST_ROWS * parts) flush();
    stage = (stage + 1) % stages;
  }
  if (summed) flush();

  __syncthreads();
  for (int j = 0; centre && j < COLUMNS; ++j)
    for (int f = thread; f < p; f += blockDim.x) {
      T* to = partial + j * P + f;
      *to = scale[own(j / c) + f] * (*to - centre[own(j / c) + f] * partial[j * P + P - 4]);
    }
  double* all = (double*)scratch;
  all[thread] = loss;
  __syncthreads();
  for (int j = warp; j < m; j += warps) {
    double total = 0;
    for (int i = lane; i < per_model; i += 32) total += all[(j * per_model + i) * team];
    for (int offset = 16; offset > 0; offset /= 2)
      total += __shfl_xor_sync(~0u, total, offset);
    if (lane == 0) losses[(long long)blockIdx.x * m + j] = total;
  }
}

#endif

// Sums over rows: of A (n, columns), `chunk` rows at a time, each to a row of `sums`, by blocks
// (columns, rows at a time).
template <class In, class Out>
__device__ void sum_rows(const In* A, Out* sums, long long n, int columns, int chunk,
                         double* memory) {
  const int across = (columns + blockDim.x - 1) / blockDim.x;
  const int column = blockIdx.x % across * blockDim.x + threadIdx.x;
  const long long first = (long long)(blockIdx.x / across) * chunk, end = min(n, first + chunk);
  double total = 0;
  if (column < columns)
#pragma unroll 8
    for (long long i = first + threadIdx.y; i < end; i += blockDim.y) total += A[i * columns + column];
  memory[threadIdx.y * blockDim.x + threadIdx.x] = total;
  __syncthreads();
  if (threadIdx.y || column >= columns) return;
  for (int row = 1; row < (int)blockDim.y; ++row) total += memory[row * blockDim.x + threadIdx.x];
  sums[(long long)(blockIdx.x / across) * columns + column] = total;
}

// From and to numbers of the computation or of double precision.
#define SUM_ROWS(name, In, Out)                                                                   \
  extern "C" __global__ void name(const In* A, Out* sums, long long n, int columns, int chunk) {  \
    SHARED(memory);                                                                               \
    sum_rows(A, sums, n, columns, chunk, memory);                                                 \
  }
SUM_ROWS(sum_real_real, T, T)
SUM_ROWS(sum_real_wide, T, double)
SUM_ROWS(sum_wide_real, double, T)
SUM_ROWS(sum_wide_wide, double, double)
