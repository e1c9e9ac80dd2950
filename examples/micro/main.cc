// Runs the golden cases of `catflap bundle unpack --c` on a board: exit 0 if it answers as tested. Not compiled here:
// there were no sources of LiteRT Micro. See docs/reference/targets.md.
#include "catflap_golden.h"
#include "tensorflow/lite/micro/micro_interpreter.h"
#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"

alignas(16) static uint8_t arena[340 * 1024];

int main() {
  static tflite::MicroMutableOpResolver<9> ops;
  ops.AddAdd(); ops.AddConv2D(); ops.AddDepthwiseConv2D(); ops.AddFullyConnected(); ops.AddMean();
  ops.AddMul(); ops.AddPad(); ops.AddSub(); ops.AddTranspose();
  static tflite::MicroInterpreter network(tflite::GetModel(catflap_model), ops, arena, sizeof(arena));
  if (network.AllocateTensors() != kTfLiteOk) return 1;
  for (int i = 0; i < CATFLAP_GOLDEN_CASES; ++i) {  // does this board answer as tested?
    memcpy(network.input(0)->data.int8, catflap_golden_frames[i], CATFLAP_FRAME_BYTES);
    network.Invoke();
    if (catflap_golden_check(i, network.output(0)->data.int8) != 0) return 2;
  }
  // each camera frame, 96 x 96 RGB: data.int8[i] = catflap_input(pixels[i]); Invoke(); catflap_decision(...)
}
