extern "C" __global__ void double_all(const int* numbers, int* doubled, int count) {
    if (threadIdx.x < count) doubled[threadIdx.x] = 2 * numbers[threadIdx.x];
}
