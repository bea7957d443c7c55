// One kernel for all small arithmetic: it runs the programs that ``fusion.py`` writes.
//
// A program is a number of stages, after each of which all blocks wait for each other. A stage is
// segments: a program over the indices of an array for the elements to store, or one whose results
// are summed, or of which the largest or smallest is taken. All threads of a block run the same
// instruction. The names of operations and dtypes are defined by ``cupy.py``, in the order of
// ``fusion.py``.

#ifndef PAUSE  // what a thread does while it waits for another block; an emulation runs that block
#define PAUSE()
#define SHARED(name) extern __shared__ double name[]
#endif

typedef long long Integer;

union Word {
  float f;
  double d;
  Integer i;
};

struct Table {
  Integer at[ROOM];  // addresses, and bits of numbers
};

enum { OPERATIONS };
enum { DTYPES };
enum { NOT_REDUCED, SUM, LARGEST, SMALLEST };

struct Segment {
  Integer first, blocks, code, lines, axes, kept, reduction, count, length, shares, chunk, team,
      near, result, entry, dtype, computed, lengths[8];
};

__device__ float raised(float a, float b) { return powf(a, b); }
__device__ double raised(double a, double b) { return pow(a, b); }

template <class V>
__device__ V floating(int name, V a, V b) {
  switch (name) {
    case DIVIDE: return a / b;
    case POW: return raised(a, b);
    case SQRT: return sqrt(a);
    case EXP: return exp(a);
    case LOG: return log(a);
    case LOG1P: return log1p(a);
    case LOG2: return log2(a);
    case EXPM1: return expm1(a);
    default: return floor(a);
  }
}

__device__ Integer floating(int, Integer a, Integer) { return a; }  // floor

__device__ bool is_finite(double a) { return a - a == 0; }

// The result of an operation whose operands are of one kind; NaN as in NumPy.
template <class V>
__device__ V arithmetic(int name, V a, V b) {
  switch (name) {
    case ADD: return a + b;
    case SUBTRACT: return a - b;
    case MULTIPLY: return a * b;
    case NEGATIVE: return -a;
    case ABS: return a < 0 ? -a : a == 0 ? V(0) : a;
    case SIGN: return a > 0 ? V(1) : a < 0 ? V(-1) : a == 0 ? V(0) : a;
    case MAXIMUM: return a > b || a != a ? a : b;
    case MINIMUM: return a < b || a != a ? a : b;
    default: return floating(name, a, b);
  }
}

template <class V>
__device__ Integer truth(int name, V a, V b) {
  switch (name) {
    case ISFINITE: return is_finite(a);
    case ISNAN: return a != a;
    case EQUAL: return a == b;
    case NOT_EQUAL: return a != b;
    case LESS: return a < b;
    case LESS_EQUAL: return a <= b;
    case GREATER: return a > b;
    case GREATER_EQUAL: return a >= b;
    default: return a == 0;  // LOGICAL_NOT
  }
}

template <class V>
__device__ Word cast(V a, int dtype) {
  Word to;
  to.i = 0;
  switch (dtype) {
    case FLOAT32: to.f = float(a); break;
    case FLOAT64: to.d = double(a); break;
    case BOOL: to.i = a != 0; break;
    case INT8: to.i = (signed char)Integer(a); break;
    case UINT8: to.i = (unsigned char)Integer(a); break;
    case INT16: to.i = (short)Integer(a); break;
    case UINT16: to.i = (unsigned short)Integer(a); break;
    case INT32: to.i = int(Integer(a)); break;
    case UINT32: to.i = unsigned(Integer(a)); break;
    default: to.i = Integer(a);
  }
  return to;
}

__device__ Word load(Integer at, int dtype) {
  Word to;
  to.i = 0;
  switch (dtype) {
    case FLOAT32: to.f = *(const float*)at; break;
    case FLOAT64: to.d = *(const double*)at; break;
    case BOOL: case UINT8: to.i = *(const unsigned char*)at; break;
    case INT8: to.i = *(const signed char*)at; break;
    case INT16: to.i = *(const short*)at; break;
    case UINT16: to.i = *(const unsigned short*)at; break;
    case INT32: to.i = *(const int*)at; break;
    case UINT32: to.i = *(const unsigned*)at; break;
    default: to.i = *(const Integer*)at;
  }
  return to;
}

__device__ void store(Word value, Integer at, int dtype) {
  switch (dtype) {
    case FLOAT32: *(float*)at = value.f; break;
    case FLOAT64: *(double*)at = value.d; break;
    case BOOL: case INT8: case UINT8: *(unsigned char*)at = value.i; break;
    case INT16: case UINT16: *(unsigned short*)at = value.i; break;
    case INT32: case UINT32: *(unsigned*)at = value.i; break;
    default: *(Integer*)at = value.i;
  }
}

__device__ Integer size_of(int dtype) {
  switch (dtype) {
    case BOOL: case INT8: case UINT8: return 1;
    case INT16: case UINT16: return 2;
    case FLOAT32: case INT32: case UINT32: return 4;
    default: return 8;
  }
}

// Indices along some axes of a number that counts them, the last axis fastest.
__device__ void indices_of(const Segment& segment, int first, int end, Integer number, Integer* at) {
#pragma unroll
  for (int axis = 7; axis >= 0; --axis) {
    if (axis < first || axis >= end) continue;
    Integer length = segment.lengths[axis];
    if (axis == first) {
      at[axis] = number;
    } else if (number <= 0xffffffffLL && length <= 0xffffffffLL) {
      unsigned whole = unsigned(number), rest = whole / unsigned(length);
      at[axis] = whole - rest * unsigned(length);
      number = rest;
    } else {
      at[axis] = number % length;
      number /= length;
    }
  }
}

__device__ Integer along(const Integer* vector, int axes, const Integer* at) {
  Integer sum = vector[0];
#pragma unroll
  for (int axis = 0; axis < 8; ++axis)
    if (axis < axes) sum += at[axis] * vector[1 + axis];
  return sum;
}

// Run the program of a segment at some indices. Register r of a thread is registers[r * threads].
__device__ void run(const Integer* code, int lines, int axes, const Integer* at, const Table& table,
                    Word* registers) {
  const int threads = blockDim.x;
  for (const Integer* line = code; lines > 0; --lines, line += 5) {
    const int name = line[0] & 255, computed = line[0] >> 8 & 255;
    Word* to = registers + line[1] * threads;
    if (name == LOAD) {
      *to = load(table.at[line[3]] + along(code + line[4], axes, at), line[2]);
    } else if (name == STORE) {
      store(registers[line[2] * threads], table.at[line[3]] + along(code + line[4], axes, at),
            line[1]);
    } else if (name == NUMBER) {
      to->i = line[3] ? table.at[line[3] - 1] : line[2];
    } else if (name == GATHER) {
      const Integer *vector = code + line[4], length = vector[1 + axes];
      Integer index = registers[line[2] * threads].i % length;
      index += index < 0 ? length : 0;  // as CuPy: what is out of range comes round
      index = index * vector[2 + axes] + along(vector, axes, at);
      *to = load(table.at[line[3]] + index, line[0] >> 16);
    } else if (name == INDEX) {
      to->i = along(code + line[4], axes, at);
    } else {
      const Word a = registers[line[2] * threads];
      if (name == CAST) {
        const int dtype = line[3];
        *to = computed == 0 ? cast(a.f, dtype) : computed == 1 ? cast(a.d, dtype) : cast(a.i, dtype);
        continue;
      }
      const Word b = registers[line[3] * threads];
      if (name == WHERE) {
        const Word c = registers[line[4] * threads];
        *to = a.i ? b : c;
      } else if (name >= ISFINITE) {
        switch (name) {
          case BITWISE_AND: to->i = a.i & b.i; break;
          case BITWISE_OR: to->i = a.i | b.i; break;
          case BITWISE_XOR: to->i = a.i ^ b.i; break;
          case BITWISE_INVERT: to->i = ~a.i; break;
          default:
            to->i = computed == 0   ? truth(name, a.f, b.f)
                    : computed == 1 ? truth(name, a.d, b.d)
                                    : truth(name, a.i, b.i);
        }
      } else if (computed == 0) {
        to->f = arithmetic(name, a.f, b.f);
      } else if (computed == 1) {
        to->d = arithmetic(name, a.d, b.d);
      } else {
        to->i = arithmetic(name, a.i, b.i);
      }
    }
  }
}

template <class V>
__device__ V combined(int reduction, V a, V b) {
  return reduction == SUM ? a + b : arithmetic(reduction == LARGEST ? MAXIMUM : MINIMUM, a, b);
}

// A team of threads reduces some of the values to one. Sums of float32 are made in double.
__device__ void reduce(const Segment& segment, const Integer* code, Integer block,
                       const Table& table, Word* registers, Word* totals) {
  const int team = segment.team, teams = blockDim.x / team, thread = threadIdx.x;
  const int lane = segment.near ? thread % team : thread / teams;
  const int own = segment.near ? thread / team : thread % teams, stride = segment.near ? 1 : teams;
  const int reduction = segment.reduction;
  const bool whole = segment.computed == 2;
  const Integer output = block * teams + own;
  const bool active = output < segment.count;
  Integer at[8] = {};
  Word& total = totals[thread];
  const double infinity = __int_as_float(0x7f800000);
  if (whole)
    total.i = reduction == SUM ? 0 : Integer(reduction == LARGEST ? 1ULL << 63 : ~0ULL >> 1);
  else
    total.d = reduction == SUM ? 0 : reduction == LARGEST ? -infinity : infinity;
  if (active) {
    indices_of(segment, 0, segment.kept, output / segment.shares, at);
    Integer r = output % segment.shares * segment.chunk;
    const Integer end = min(segment.length, r + segment.chunk);
    for (r += lane; r < end; r += team) {
      indices_of(segment, segment.kept, segment.axes, r, at);
      run(code, segment.lines, segment.axes, at, table, registers);
      const Word value = registers[segment.result * blockDim.x];
      if (whole)
        total.i = combined(reduction, total.i, value.i);
      else
        total.d = combined(reduction, total.d, segment.computed ? value.d : double(value.f));
    }
  }
  for (int half = team / 2; half > 0; half /= 2) {
    __syncthreads();
    if (lane < half) {
      const Word other = totals[thread + half * stride];
      if (whole)
        total.i = combined(reduction, total.i, other.i);
      else
        total.d = combined(reduction, total.d, other.d);
    }
  }
  if (active && lane == 0) {
    const int dtype = segment.dtype;
    store(whole ? cast(total.i, dtype) : cast(total.d, dtype),
          table.at[segment.entry] + output * size_of(dtype), dtype);
  }
  __syncthreads();  // before the next values come
}

// Rows (m, words) into the places `slot` (m,) of a ring (m, places, words), in words of four bytes.
extern "C" __global__ void write_rows(unsigned* ring, const Integer* slot, const unsigned* rows,
                                 Integer places, Integer words, Integer count) {
  const Integer i = (Integer)blockIdx.x * blockDim.x + threadIdx.x, model = i / words;
  if (i < count) ring[(model * places + slot[model]) * words + i % words] = rows[i];
}

// All blocks must run at once (cooperative launch) where there is more than one stage.
extern "C" __global__ void fused(const Integer* __restrict__ program, unsigned* arrivals,
                                 unsigned arrived, const __grid_constant__ Table table) {
  SHARED(memory);
  Word *totals = (Word*)memory, *registers = totals + blockDim.x + threadIdx.x;
  const int stages = program[0];
  const Segment* segments = (const Segment*)(program + 1 + 3 * stages);
  for (int stage = 0; stage < stages; ++stage) {
    const Integer* head = program + 1 + 3 * stage;
    Integer one = head[0];
    for (Integer block = blockIdx.x; block < head[2]; block += gridDim.x) {
      while (one + 1 < head[1] && block >= segments[one + 1].first) ++one;
      const Segment& segment = segments[one];
      const Integer* code = program + segment.code;
      if (segment.reduction) {
        reduce(segment, code, block - segment.first, table, registers, totals);
        continue;
      }
      const Integer element = (block - segment.first) * blockDim.x + threadIdx.x;
      Integer at[8] = {};
      if (element >= segment.count) continue;
      indices_of(segment, 0, segment.axes, element, at);
      run(code, segment.lines, segment.axes, at, table, registers);
    }
    if (stage + 1 == stages) break;
    __syncthreads();
    if (gridDim.x > 1) {
      if (threadIdx.x == 0) {
        __threadfence();
        atomicAdd(arrivals, 1u);
        arrived += gridDim.x;
        while ((int)(*(volatile unsigned*)arrivals - arrived) < 0) PAUSE();
        __threadfence();
      }
      __syncthreads();
    }
  }
}
