// CUDA kernels of the CuPy backend; law 4: each does what a reference in Python does.
//
// Compiled with DTYPE, that of the computation, STORED, the dtype of X, and LOSS, one of the structs
// below. Shapes as everywhere: n rows, p features, m models, k classes, c columns of
// weights. "Packed" arrays (m, c, P) hold the p weights of a column, its intercept as weight p,
// whose feature is 1 in all rows, and zeros: scores and gradients then need no second formula.

struct bfloat16 {
  unsigned short bits;
  __device__ operator float() const { return __uint_as_float((unsigned)bits << 16); }
};

typedef DTYPE T;
typedef STORED S;

#ifndef PAUSE  // what a thread does while it waits for another block; an emulation runs that block
#define PAUSE()
#define SHARED(name) extern __shared__ double name[]
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
  __device__ V operator()(long long row, int model) const {
    if (!values) return 1;
    return values[row * columns + (models ? models[model] : columns == 1 ? 0 : model)];
  }
};

// Scores Z (n, m, c) to losses (n, m) and their gradient G (n, m, c), which may be Z.
// y and s are those of the rows `rows`, or of the first n. Block (team, rows at a time).
extern "C" __global__ void loss(const T* Z, const int* y, const int* targets, const T* s,
                                const int* models, const long long* rows, T* values, T* G,
                                long long n, int m, int k, int c, int y_columns, int s_columns,
                                T margin) {
  SHARED(memory);
  long long i = (long long)blockIdx.x * blockDim.y + threadIdx.y;
  bool active = i < n * m;
  long long row = !active ? 0 : rows ? rows[i / m] : i / m;
  int label = active ? PerModel<int>{y, targets, y_columns}(row, i % m) : 0;
  T weight = active ? PerModel<T>{s, models, s_columns}(row, i % m) : 0;
  T value = row_loss(Z + i * c, G + i * c, label, weight, k, c, margin, active, threadIdx.x,
                     blockDim.x, (T*)memory);
  if (active && threadIdx.x == 0) values[i] = value;
}

// The rows `rows` of X, centred, in the computation's dtype, packed (n, P). One block per row.
extern "C" __global__ void gather(const S* X, long long row_stride, long long column_stride,
                                  const long long* rows, const T* centre, T* packed, int p, int P) {
  const S* x = X + rows[blockIdx.x] * row_stride;
  for (int f = threadIdx.x; f < P; f += blockDim.x)
    packed[(long long)blockIdx.x * P + f] = f < p ? T(x[f * column_stride]) - centre[f] : T(f == p);
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

// out[i, j] = Σ_l A[i, l] B[j, l], a thread at a time two by two: half as many reads of memory.
// `put` takes i, j and the sum. Element (i, l) of A is A[i * a + l * al], of B likewise.
template <class Put>
__device__ void product(const T* A, int a, int al, int rows, const T* B, int b, int bl, int columns,
                        int inner, Put put) {
  int half = (rows + 1) / 2;  // neighbouring threads have neighbouring i
  for (int tile = threadIdx.x; tile < half * ((columns + 1) / 2); tile += blockDim.x) {
    int i = tile % half, j = tile / half * 2;
    bool two = i + half < rows, pair = j + 1 < columns;
    const T *a0 = A + i * a, *a1 = two ? a0 + half * a : a0;
    const T *b0 = B + j * b, *b1 = pair ? b0 + b : b0;
    T s00 = 0, s01 = 0, s10 = 0, s11 = 0;
#pragma unroll 4
    for (int l = 0; l < inner; ++l) {
      T x0 = a0[l * al], x1 = a1[l * al], w0 = b0[l * bl], w1 = b1[l * bl];
      s00 += x0 * w0;
      s01 += x0 * w1;
      s10 += x1 * w0;
      s11 += x1 * w1;
    }
    put(i, j, s00);
    if (pair) put(i, j + 1, s01);
    if (two) put(i + half, j, s10);
    if (two && pair) put(i + half, j + 1, s11);
  }
}

// An epoch of mini-batch SGD in one launch. The blocks of a group share a model: each keeps
// `width` packed features of W and of the rows at hand in shared memory, and its part of the
// scores goes to the others through `exchange`; then all know the gradient in the scores. Groups
// are independent: they take the models in turn. All blocks must run at once (cooperative launch),
// so registers are kept to a fourth of a multiprocessor's, in double precision to half.
extern "C" __global__ void __launch_bounds__(256, sizeof(T) == 4 ? 4 : 2)
    sgd(const S* __restrict__ X, long long row_stride, long long column_stride,
        const int* __restrict__ y, const int* __restrict__ targets, const T* __restrict__ s,
        const int* __restrict__ models, const long long* __restrict__ rows,
        const T* __restrict__ factors, const T* __restrict__ centre, const T* __restrict__ steps,
        const T* __restrict__ shrinks, T* W, T* V, T* total, double* seen, T* exchange,
        unsigned* arrivals, long long n, int batch, int p, int P, int m, int k, int c,
        int y_columns, int s_columns, int centre_columns, int members, int width, int tile,
        T margin, T momentum, int nesterov, T l1, T l2) {
  SHARED(memory);
  const int thread = threadIdx.x, group = blockIdx.x / members, member = blockIdx.x % members;
  const int groups = gridDim.x / members, first = member * width, count = min(width, P - first);
  const int ld = width | 1;  // odd: columns of the tile fall on different memory banks
  const Update advance{momentum, l1, l2, nesterov};
  const PerModel<int> label_of{y, targets, y_columns};
  const PerModel<T> weight_of{s, models, s_columns};
  T* x = (T*)memory;  // two tiles of rows: one in use, one arriving
  T *w = x + 2 * tile * ld, *v = w + c * ld, *step = v + c * ld, *shrink = step + c * ld;
  T *gradient = shrink + c * ld, *z = gradient + c * ld, *weights = z + tile * c;
  int* labels = (int*)(weights + 2 * tile);
  const int team = min(32, (int)blockDim.x / tile), lane = thread % team;
  unsigned* arrived = arrivals + group;
  unsigned barriers = 0;
  int buffer = 0;
  exchange += (long long)group * members * 2 * tile * c;

  for (int model = group; model < m; model += groups) {
    const T* mean = centre + (centre_columns == 1 ? 0 : (long long)model * p);
    const long long packed = (long long)model * c * P + first;
    for (int i = thread; i < c * count; i += blockDim.x) {
      int here = i / count * ld + i % count;
      long long there = packed + (long long)(i / count) * P + i % count;
      w[here] = W[there];
      v[here] = V[there];
      step[here] = steps[there];
      shrink[here] = shrinks[there];
    }

    auto load = [&](long long start, int buffer) {
      const int warp = thread / 32, warps = blockDim.x / 32, size = min((long long)tile, n - start);
      T* to = x + buffer * tile * ld;
      for (int r0 = warp; r0 < size; r0 += 8 * warps)
        for (int f0 = thread % 32; f0 < count; f0 += 64) {
          T staged[16];  // all reads are under way before the first is waited for
#pragma unroll
          for (int u = 0; u < 16; ++u) {
            int r = r0 + u / 2 * warps, f = first + f0 + u % 2 * 32;
            staged[u] = T(f == p);
            if (r < size && f < p)
              staged[u] = T(X[rows[start + r] * row_stride + f * column_stride]) - mean[f];
          }
#pragma unroll
          for (int u = 0; u < 16; ++u) {
            int r = r0 + u / 2 * warps, f = f0 + u % 2 * 32;
            if (r < size && f < count) to[r * ld + f] = staged[u];
          }
        }
      for (int r = thread; r < size; r += blockDim.x) {
        labels[buffer * tile + r] = label_of(rows[start + r], model);
        weights[buffer * tile + r] = weight_of(rows[start + r], model);
      }
    };

    load(0, buffer);
    double losses = 0;
    for (long long start = 0, t = 0; start < n; start += batch, ++t) {
      const int size = min((long long)batch, n - start);
      const T factor = factors[t], rate = factor / size;
      for (int i = thread; i < c * ld; i += blockDim.x) gradient[i] = 0;
      __syncthreads();
      for (int begin = 0; begin < size; begin += tile) {
        const int r = min(tile, size - begin);
        const T* now = x + buffer * tile * ld;
        T* shares = exchange + (long long)buffer * members * tile * c;
        T* share = shares + member * tile * c;
        product(now, ld, 1, r, w, ld, 1, c, count,
                [=](int i, int j, T sum) { share[i * c + j] = sum; });
        __syncthreads();
        if (thread == 0) {
          __threadfence();
          atomicAdd(arrived, 1u);
        }
        load(start + begin + r, 1 - buffer);  // while the other blocks arrive
        if (thread == 0) {
          barriers += members;
          while ((int)(*(volatile unsigned*)arrived - barriers) < 0) PAUSE();
          __threadfence();
        }
        __syncthreads();
        for (int i = thread; i < r * c; i += blockDim.x) {
          T score = 0;
#pragma unroll 8
          for (int other = 0; other < members; ++other)
            score += __ldcg(shares + other * tile * c + i);
          z[i] = score;
        }
        __syncthreads();
        for (int i0 = 0; i0 < r; i0 += blockDim.x / team) {
          int i = i0 + thread / team, at = buffer * tile + i;
          bool active = i < r;
          T value = row_loss(z + i * c, z + i * c, active ? labels[at] : 0,
                             active ? weights[at] : 0, k, c, margin, active, lane, team, w);
          if (lane == 0) losses += value;
        }
        __syncthreads();
        product(now, 1, ld, count, z, 1, c, c, r,
                [=](int f, int j, T sum) { gradient[j * ld + f] += sum; });
        buffer = 1 - buffer;
        __syncthreads();
      }
      for (int i = thread; i < c * count; i += blockDim.x) {
        int here = i / count * ld + i % count;
        w[here] = advance(w[here], v + here, gradient[here], rate * step[here],
                          factor * shrink[here]);
        if (total) total[packed + (long long)(i / count) * P + i % count] += w[here];
      }
      __syncthreads();
    }

    for (int i = thread; i < c * count; i += blockDim.x) {
      int here = i / count * ld + i % count;
      long long there = packed + (long long)(i / count) * P + i % count;
      W[there] = w[here];
      V[there] = v[here];
    }
    __syncthreads();
    memory[thread] = losses;
    __syncthreads();
    if (thread == 0 && member == 0)
      for (int i = 0; i < (int)blockDim.x; ++i) seen[model] += memory[i];
    __syncthreads();
  }
}
