// The operators that a block is made of, and the embedding.
#include "operator_bench.h"

namespace credence::operator_bench {

void OperatorBench::embed() {
  Room room(device);
  const Matrix table(device, vocabulary(), kHidden);
  const int rows = 8 * tokens;
  credence_embed p = {};
  p.batch = batch(&room, rows, 1);
  p.table = table;
  p.scale = 1;
  p.x = room.same(static_cast<size_t>(rows) * kHidden, 0);
  p.ldx = kHidden;
  line("embed", rows_of(rows), 0, rows * (kHidden * (act() + 4)), [&] { device->embed(p); });
}

void OperatorBench::norm() {
  Room room(device);
  const int rows = 8 * tokens;
  const size_t n = static_cast<size_t>(rows) * kHidden;
  credence_norm p = {};
  p.rows = room.number(rows);
  p.capacity = rows;
  p.width = kHidden;
  p.dtype = device->dtype();
  p.eps = 1e-5f;
  p.x = room.floats(n);
  p.ldx = p.ldy = kHidden;
  p.weight = room.same(kHidden, 1);
  p.y = room.act(n);
  line("norm", rows_of(rows), 0, n * (4 + act()), [&] { device->norm(p); });
}

void OperatorBench::norm_backward() {
  Room room(device);
  const int rows = 8 * tokens;
  const size_t n = static_cast<size_t>(rows) * kHidden;
  credence_norm_backward p = {};
  p.rows = room.number(rows);
  p.capacity = rows;
  p.width = kHidden;
  p.eps = 1e-5f;
  p.x = room.floats(n);
  p.ldx = p.lddx = p.lddy = kHidden;
  p.weight = room.same(kHidden, 1);
  p.dy = room.floats(n);
  p.dx = room.same(n, 0);
  line("norm_backward", rows_of(rows), 0, n * 16.0, [&] { device->norm_backward(p); }, true);
}

void OperatorBench::attention_input() {
  for (int rows : {tokens, 1}) {
    Room room(device);
    const Layer layer(device, &room, kQkv, kHidden, {0, kQuery, kQuery + kKeys, kQkv});
    const size_t n = rows;
    credence_attention_input p = {};
    p.batch = batch(&room, rows, rows < 4 ? 1 : 4);
    p.shape = smollm2();
    p.dtype = device->dtype();
    p.x = room.floats(n * kHidden);
    p.ldx = kHidden;
    p.norm_weight = room.same(kHidden, 1);
    p.qkv = layer.weights;
    p.lora = layer.lora;
    p.rotary = rotary(&room, tokens);
    p.pages = pages(&room, p.batch);
    p.h = room.act(n * kHidden);
    p.q = room.act(n * kQuery);
    p.k = room.act(n * kKeys);
    p.v = room.act(n * kKeys);
    p.inv_rms = room.same(n, 1);
    p.s = room.act(n * 3 * kRank);
    line("attention_input", rows_of(rows), rows * (layer.base_flop + layer.lora_flop),
         linear_bytes(layer, rows, 4 * kHidden, kQkv * act()), [&] { device->attention_input(p); }, false,
         {rows, kQkv, kHidden});
  }
}

void OperatorBench::attention_input_backward() {
  Room room(device);
  const Layer layer(device, &room, kQkv, kHidden, {0, kQuery, kQuery + kKeys, kQkv});
  const size_t n = tokens;
  credence_attention_input_backward p = {};
  p.batch = batch(&room, tokens, 4);
  p.shape = smollm2();
  p.dtype = device->dtype();
  p.x = room.floats(n * kHidden);
  p.ldx = p.lddx = kHidden;
  p.norm_weight = room.same(kHidden, 1);
  p.inv_rms = room.same(n, 1);
  p.qkv = layer.weights;
  p.lora = layer.lora;
  p.rotary = rotary(&room, tokens);
  p.h = room.act(n * kHidden);
  p.s = room.act(n * 3 * kRank);
  p.dq = room.act(n * kQuery);
  p.dk = room.act(n * kKeys);
  p.dv = room.act(n * kKeys);
  p.dx = room.same(n * kHidden, 0);
  p.gradients = layer.gradients;
  line("attention_input_backward", rows_of(tokens), tokens * (layer.base_flop + 2 * layer.lora_flop),
       linear_bytes(layer, tokens, kQkv * act(), 12 * kHidden), [&] { device->attention_input_backward(p); }, false,
       {tokens, kHidden, kQkv});
}

void OperatorBench::attention() {
  const struct {
    int count, segments, before;
    std::string shape;
    double pairs;
  } cases[] = {{tokens, 4, 0, "4 x " + std::to_string(tokens / 4) + " tokens", causal_pairs(4, tokens / 4)},
               {4, 4, tokens / 4 - 1, "4 rows, " + std::to_string(tokens / 4) + " keys", 1.0 * tokens}};
  for (const auto& c : cases) {
    Room room(device);
    const size_t n = c.count;
    credence_attention p = {};
    p.batch = batch(&room, c.count, c.segments, c.before);
    p.shape = smollm2();
    p.dtype = device->dtype();
    p.scale = 0.125f;
    p.q = room.act(n * kQuery);
    p.pages = pages(&room, p.batch);
    p.o = room.act(n * kQuery);
    p.lse = room.same(n * kHeads, 0);
    const double keys = static_cast<double>(c.segments) * (c.before + c.count / c.segments);
    line("attention", c.shape, 4.0 * kQuery * c.pairs, (2.0 * n * kQuery + 2 * keys * kKeys) * act(),
         [&] { device->attention(p); });
  }
}

void OperatorBench::attention_backward() {
  Room room(device);
  const size_t n = tokens;
  credence_attention_backward p = {};
  p.batch = batch(&room, tokens, 4);
  p.shape = smollm2();
  p.dtype = device->dtype();
  p.scale = 0.125f;
  p.q = room.act(n * kQuery);
  p.k = room.act(n * kKeys);
  p.v = room.act(n * kKeys);
  p.o = room.act(n * kQuery);
  p.lse = room.same(n * kHeads, 8);
  p.d_o = room.act(n * kQuery);
  p.dq = room.act(n * kQuery);
  p.dk = room.act(n * kKeys);
  p.dv = room.act(n * kKeys);
  line("attention_backward", "4 x " + std::to_string(tokens / 4) + " tokens",
       10.0 * kQuery * causal_pairs(4, tokens / 4), n * (4.0 * kQuery + 4 * kKeys) * act(),
       [&] { device->attention_backward(p); });
}

void OperatorBench::one_projection(Room* room, const Layer& layer, int rows, int columns, const char* which) {
  const size_t n = rows;
  credence_project p = {};
  p.rows = room->number(rows);
  p.capacity = rows;
  p.dtype = device->dtype();
  p.weights = layer.weights;
  p.lora = layer.lora;
  p.in = room->act(n * columns);
  p.x = p.x_out = room->floats(n * kHidden);
  p.ldx = kHidden;
  p.s = room->act(n * kRank);
  line("project", std::string(which) + ", " + rows_of(rows), rows * (layer.base_flop + layer.lora_flop),
       linear_bytes(layer, rows, columns * act(), 8 * kHidden), [&] { device->project(p); }, false,
       {rows, kHidden, columns});
}

void OperatorBench::project() {
  for (int rows : {tokens, 1}) {
    Room room(device);
    const Layer o(device, &room, kHidden, kQuery, {0, kHidden}),
        down(device, &room, kHidden, kIntermediate, {0, kHidden});
    one_projection(&room, o, rows, kQuery, "o");
    one_projection(&room, down, rows, kIntermediate, "down");
  }
}

void OperatorBench::project_backward() {
  Room room(device);
  const size_t n = tokens;
  const Layer layer(device, &room, kHidden, kIntermediate, {0, kHidden});
  credence_project_backward p = {};
  p.rows = room.number(tokens);
  p.capacity = tokens;
  p.dtype = device->dtype();
  p.weights = layer.weights;
  p.lora = layer.lora;
  p.in = room.act(n * kIntermediate);
  p.s = room.act(n * kRank);
  p.dx = room.floats(n * kHidden);
  p.lddx = kHidden;
  p.din = room.act(n * kIntermediate);
  p.gradients = layer.gradients;
  line("project_backward", "down, " + rows_of(tokens), tokens * (layer.base_flop + 2 * layer.lora_flop),
       linear_bytes(layer, tokens, 4 * kHidden, 2 * kIntermediate * act()), [&] { device->project_backward(p); }, false,
       {tokens, kIntermediate, kHidden});
}

void OperatorBench::mlp_input() {
  for (int rows : {tokens, 1}) {
    Room room(device);
    const size_t n = rows;
    const Layer layer(device, &room, 2 * kIntermediate, kHidden, {0, kIntermediate, 2 * kIntermediate});
    credence_mlp_input p = {};
    p.rows = room.number(rows);
    p.capacity = rows;
    p.shape = smollm2();
    p.dtype = device->dtype();
    p.x = room.floats(n * kHidden);
    p.ldx = kHidden;
    p.norm_weight = room.same(kHidden, 1);
    p.weights = layer.weights;
    p.lora = layer.lora;
    p.h = room.act(n * kHidden);
    p.u = rows > 1 ? room.act(n * 2 * kIntermediate) : nullptr;  // a token that is decoded keeps nothing
    p.a = room.act(n * kIntermediate);
    p.inv_rms = room.same(n, 1);
    p.s = room.act(n * 2 * kRank);
    line("mlp_input", rows_of(rows), rows * (layer.base_flop + layer.lora_flop),
         linear_bytes(layer, rows, 4 * kHidden, (p.u ? 3 : 1) * kIntermediate * act()), [&] { device->mlp_input(p); },
         false, {rows, 2 * kIntermediate, kHidden});
  }
}

void OperatorBench::mlp_input_backward() {
  Room room(device);
  const size_t n = tokens;
  const Layer layer(device, &room, 2 * kIntermediate, kHidden, {0, kIntermediate, 2 * kIntermediate});
  credence_mlp_input_backward p = {};
  p.rows = room.number(tokens);
  p.capacity = tokens;
  p.shape = smollm2();
  p.dtype = device->dtype();
  p.x = room.floats(n * kHidden);
  p.ldx = p.lddx = kHidden;
  p.norm_weight = room.same(kHidden, 1);
  p.inv_rms = room.same(n, 1);
  p.weights = layer.weights;
  p.lora = layer.lora;
  p.h = room.act(n * kHidden);
  p.u = room.act(n * 2 * kIntermediate);
  p.s = room.act(n * 2 * kRank);
  p.da = room.act(n * kIntermediate);
  p.dx = room.same(n * kHidden, 0);
  p.gradients = layer.gradients;
  line("mlp_input_backward", rows_of(tokens), tokens * (layer.base_flop + 2 * layer.lora_flop),
       linear_bytes(layer, tokens, 3 * kIntermediate * act(), 12 * kHidden), [&] { device->mlp_input_backward(p); },
       false, {tokens, kHidden, 2 * kIntermediate});
}

void OperatorBench::embed_backward() {
  Room room(device);
  const int rows = 8 * tokens;
  credence_embed_backward p = {};
  p.batch = batch(&room, rows, 1);
  p.width = kHidden;
  p.scale = 1;
  p.dx = room.floats(static_cast<size_t>(rows) * kHidden);
  p.lddx = kHidden;
  p.dtable = room.same(static_cast<size_t>(vocabulary()) * kHidden, 0);
  line("embed_backward", rows_of(rows), 0, rows * (12.0 * kHidden), [&] { device->embed_backward(p); }, true);
}

}  // namespace credence::operator_bench
