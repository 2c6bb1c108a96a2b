// Where things are in shared memory, and how they get there. After `join.cu`, in front of `keys.cu`.
//
// A block has the basis, the queries and small tables; each of its warps two stages, one of which is
// filled while it works on the other.
//
// Set by the launcher, beside what those want: VALUE_BYTES, HAS_MEAN.

constexpr int KEY_STAGE = up(TOKENS * KEY_ROOM + 16);
constexpr int VALUE_STAGE = up(TOKENS * VALUE_BYTES + 16);
constexpr int STAGE = KEY_STAGE + VALUE_STAGE + 2 * TOKENS;
// what `weigh_exact` says, and then everything else
constexpr int AT_BASIS = up(2 * GROUPED * 4);
constexpr int AT_QUERY = AT_BASIS + BASIS_BYTES;
constexpr int AT_MEAN = AT_QUERY + CHUNKS * N_TILES * 256;
constexpr int AT_COLUMNS = AT_MEAN + (HAS_MEAN ? CHUNKS * N_TILES * 256 : 0);
constexpr int AT_SPEED = AT_COLUMNS + COLUMN_BYTES;
constexpr int AT_RATE = AT_SPEED + HALF * 4;
constexpr int AT_SCALE = AT_RATE + HALF * 4;
// as they are given, of the block's head
constexpr int QUERY_BYTES = GROUPED * DIM * (QUERY_TYPE == 0 ? 4 : 2);
constexpr int AT_GIVEN_QUERY = AT_SCALE + 2 * 256 * 4;
constexpr int AT_GIVEN_MEAN = AT_GIVEN_QUERY + QUERY_BYTES;
constexpr int AT_GIVEN_COLUMNS = AT_GIVEN_MEAN + (HAS_MEAN ? DIM * 4 : 0);
constexpr int AT_STAGE = up(AT_GIVEN_COLUMNS + 2 * HALF * 4);

// What a warp found takes the place of its stages; where there are too many queries for that, what
// all warps found takes the place of everything but what `weigh_exact` says.
constexpr bool IS_FOUND_LARGE = GROUPED * SUMS * 4 > 2 * STAGE;
constexpr int AT_FOUND = IS_FOUND_LARGE ? AT_BASIS : AT_STAGE;
constexpr int FOUND_BYTES = IS_FOUND_LARGE ? GROUPED * SUMS * 4 : 2 * STAGE;
// logits of exact vectors come after everything
constexpr int AT_LOGITS = up(most(
    most(AT_STAGE + WARPS * 2 * STAGE, AT_FOUND + WARPS * FOUND_BYTES), JOINED * 4));
// read by the launcher, which adds those
extern "C" __constant__ const int shared_bytes = AT_LOGITS;

// Those of a head: `first_page` and `first_of_positions` are where its own begin.
struct Pages {
    const u8 *key_codes, *key_scales, *value_codes, *value_scales;
    u32 key_bytes;
    const int* table;
    u32 first_page, table_width;
    const long long* positions;
    u32 first_of_positions, first_position, length;

    static constexpr u32 TILES = PAGE / TOKENS;
    // of a tile; of one that is not there, anything
    __device__ __forceinline__ u32 page(u32 tile) const {
        return tile / TILES < table_width ? table[first_page + tile / TILES] : 0;
    }
    __device__ __forceinline__ u32 position(u32 index) const {
        if (IS_WHOLE) return first_position + index;
        return index < length ? static_cast<u32>(positions[first_of_positions + index]) : 0;
    }
};

// Where a lane's sixteens of bytes of a stretch begin, of which it has every 32nd. The sums are kept as
// they are: later sixteens add to them what is known when this is compiled.
struct Copy {
    u32 place;
    const u8* from;
    __device__ __forceinline__ Copy(u8* target, const u8* all, u32 lane) {
        place = static_cast<u32>(__cvta_generic_to_shared(target)) + lane * 16;
        from = all + lane * 16;
        asm volatile("" : "+r"(place), "+l"(from));
    }
};

// Keys of a tile by a warp: each sixteen of them where it is known to begin, whatever a key's bytes.
__device__ __forceinline__ void copy_keys(u8* target, const u8* from, u32 key_bytes, u32 lane) {
    static_assert(M_TILES <= 2);
    constexpr u32 FEWEST = KEY_ROOM - 15;
    const Copy own(target, from, lane);
    // sixteen keys are as many sixteens of bytes as a key has bytes
#pragma unroll
    for (u32 i = 0; i < M_TILES * KEY_ROOM; i += 32) {
        // said in two ways, of which the first is known when this is compiled
        const bool is_second = i >= KEY_ROOM || (i + 31 >= FEWEST && i + lane >= key_bytes);
        const u32 moved = is_second ? 16 * (KEY_ROOM - key_bytes) : 0;
        if (i + 32 <= M_TILES * FEWEST || i + lane < M_TILES * key_bytes)
            copy_ahead(own.place + moved + 16 * i, own.from + 16 * i);
    }
}

// values of a tile, likewise
__device__ __forceinline__ void copy_values(u8* target, const u8* from, u32 lane) {
    constexpr u32 ALL = TOKENS * VALUE_BYTES;
    const Copy own(target, from, lane);
#pragma unroll
    for (u32 i = 0; i < ALL; i += 512)
        if (i + 512 <= ALL || i + lane * 16 < ALL) copy_ahead(own.place + i, own.from + i);
}

// words by a block
template <int BYTES>
__device__ __forceinline__ void copy_words(u8* target, const void* from) {
    each<BYTES / 4>([&](int i) {
        copy_word_ahead(target + 4 * i, static_cast<const u8*>(from) + 4 * i);
    });
}

// sixteens of bytes by a block
template <int BYTES>
__device__ __forceinline__ void copy_wide(u8* target, const u8* from) {
    each<BYTES / 16>([&](int i) { copy_ahead(target + 16 * i, from + 16 * i); });
}

// codes and scales of a tile into a stage of shared memory
__device__ __forceinline__ void fetch(const Pages& pages, u32 page, u32 tile, u8* stage, u32 lane) {
    // of its vectors, which are fewer than 2^32; their bytes are more
    const u32 vector = page * PAGE + tile % Pages::TILES * TOKENS;
    const unsigned long long first = vector;
    copy_keys(stage, pages.key_codes + first * pages.key_bytes, pages.key_bytes, lane);
    u8* target = stage + KEY_STAGE;
    copy_values(target, pages.value_codes + first * VALUE_BYTES, lane);
    if (lane < 2 * M_TILES) {
        const u8* scales = lane < M_TILES ? pages.key_scales : pages.value_scales;
        const u8* own = scales + first + lane % M_TILES * 16;
        // the sum of places in 32 bits
        copy_ahead(static_cast<u32>(__cvta_generic_to_shared(target + VALUE_STAGE)) + lane * 16, own);
    }
}

// What all warps of a block share and something is computed of (`share_computed`): on its way first,
// and all at once, since each step that waits for the one before it would wait for memory anew.
__device__ __forceinline__ void share_given(
    u8* shared, const void* query, const float* mean, const int* columns, const u32* speeds,
    const float* scales, int head) {
    copy_words<QUERY_BYTES>(
        shared + AT_GIVEN_QUERY, static_cast<const u8*>(query) + head * QUERY_BYTES);
    if (HAS_MEAN) copy_words<DIM * 4>(shared + AT_GIVEN_MEAN, mean + head * DIM);
    copy_words<2 * HALF * 4>(shared + AT_GIVEN_COLUMNS, columns);
    copy_words<HALF * 4>(shared + AT_SPEED, speeds);
    copy_words<512 * 4>(shared + AT_SCALE, scales);
}

// The basis, which is needed later.
__device__ __forceinline__ void share_basis(
    u8* shared, const u8* basis, const u8* column_factors, int head) {
    copy_wide<BASIS_BYTES>(shared + AT_BASIS, basis + static_cast<long long>(head) * BASIS_BYTES);
    copy_wide<COLUMN_BYTES>(
        shared + AT_COLUMNS, column_factors + static_cast<long long>(head) * COLUMN_BYTES);
}
