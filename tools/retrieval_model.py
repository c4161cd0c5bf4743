"""The shipped model in PyTorch: a small Llama, written for fast training at many context lengths.

Parameters carry the names of the Hugging Face checkpoint. Tokens of a batch are kept as one row of
fixed length, and only attention sees [batch, length]: one compilation serves every context length.
"""

import json
import math
import pathlib
import time

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 2048,
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "hidden_act": "silu",
    "max_position_embeddings": 40960,
    "rms_norm_eps": 1e-5,
    # Both spellings: transformers 4 reads rope_theta, transformers 5 reads rope_parameters.
    "rope_theta": 1e7,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e7},
    "tie_word_embeddings": True,
    "attention_bias": False,
    "mlp_bias": False,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "initializer_range": 0.02,
    "torch_dtype": "bfloat16",
    "use_cache": True,
}
HEADS, KV_HEADS, HEAD_DIM = 8, 2, 64
LAYERS, HIDDEN, MLP, EPS = 6, 256, 704, CONFIG["rms_norm_eps"]


def init_parameters(device, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def normal(rows, columns, scale=1.0):
        return torch.randn(rows, columns, generator=generator) * (0.02 * scale)

    params = {"model.embed_tokens.weight": normal(CONFIG["vocab_size"], HIDDEN)}
    residual = 1 / math.sqrt(2 * LAYERS)
    for layer in range(LAYERS):
        p = f"model.layers.{layer}."
        params[p + "input_layernorm.weight"] = torch.ones(HIDDEN)
        params[p + "self_attn.q_proj.weight"] = normal(HEADS * HEAD_DIM, HIDDEN)
        params[p + "self_attn.k_proj.weight"] = normal(KV_HEADS * HEAD_DIM, HIDDEN)
        params[p + "self_attn.v_proj.weight"] = normal(KV_HEADS * HEAD_DIM, HIDDEN)
        params[p + "self_attn.o_proj.weight"] = normal(HIDDEN, HEADS * HEAD_DIM, residual)
        params[p + "post_attention_layernorm.weight"] = torch.ones(HIDDEN)
        params[p + "mlp.gate_proj.weight"] = normal(MLP, HIDDEN)
        params[p + "mlp.up_proj.weight"] = normal(MLP, HIDDEN)
        params[p + "mlp.down_proj.weight"] = normal(HIDDEN, MLP, residual)
    params["model.norm.weight"] = torch.ones(HIDDEN)
    return {name: value.to(device).requires_grad_() for name, value in params.items()}


def _norm(x, weight):
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS) * weight


def _rotate(x, cos, sin):
    low, high = x.chunk(2, dim=-1)
    return torch.cat([low * cos - high * sin, high * cos + low * sin], dim=-1)


def _before_attention(x, cos, sin, norm, wq, wk, wv):
    h = _norm(x, norm).bfloat16()
    q = (h @ wq.bfloat16().t()).view(-1, HEADS, HEAD_DIM)
    k = (h @ wk.bfloat16().t()).view(-1, KV_HEADS, HEAD_DIM)
    v = (h @ wv.bfloat16().t()).view(-1, KV_HEADS, HEAD_DIM)
    return _rotate(q.float(), cos, sin).bfloat16(), _rotate(k.float(), cos, sin).bfloat16(), v


def _after_attention(x, attended, wo, norm, gate, up, down):
    x = x + (attended @ wo.bfloat16().t()).float()
    h = _norm(x, norm).bfloat16()
    h = F.silu(h @ gate.bfloat16().t()) * (h @ up.bfloat16().t())
    return x + (h @ down.bfloat16().t()).float()


def _weighted_loss(x, norm, embedding, targets, weights):
    logits = _norm(x, norm).bfloat16() @ embedding.bfloat16().t()
    losses = F.cross_entropy(logits.float(), targets, reduction="none")
    return (losses * weights).sum() / weights.sum()


class Model:
    def __init__(self, params, device, compile_pieces):
        self.params, self.device = params, device
        wrap = (lambda f: torch.compile(f, dynamic=False)) if compile_pieces else (lambda f: f)
        self._compiled = (wrap(_before_attention), wrap(_after_attention), wrap(_weighted_loss))
        self._eager = (_before_attention, _after_attention, _weighted_loss)
        self._rope, self._backends = None, {}

    def rope(self, batch, length):
        if self._rope is None:
            exponents = torch.arange(0, HEAD_DIM, 2, dtype=torch.float64) / HEAD_DIM
            positions = torch.arange(CONFIG["max_position_embeddings"], dtype=torch.float64)
            angles = positions[:, None, None] / CONFIG["rope_theta"] ** exponents
            self._rope = angles.cos().float().to(self.device), angles.sin().float().to(self.device)
        return tuple(table[:length].repeat(batch, 1, 1) for table in self._rope)

    def hidden(self, ids, compiled=False):
        """[batch, length] ids -> [batch * length, hidden] before the last norm."""
        before, after, _ = self._compiled if compiled else self._eager
        batch, length = ids.shape
        cos, sin = self.rope(batch, length)
        p = self.params
        x = F.embedding(ids.reshape(-1), p["model.embed_tokens.weight"])
        for layer in range(LAYERS):
            def weights(*names):
                return [p[f"model.layers.{layer}.{name}.weight"] for name in names]

            q, k, v = before(x, cos, sin, *weights(
                "input_layernorm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"))
            attended = self.attend(*(t.view(batch, length, -1, HEAD_DIM).transpose(1, 2)
                                     for t in (q, k, v)))
            attended = attended.transpose(1, 2).reshape(batch * length, -1)
            x = after(x, attended, *weights(
                "self_attn.o_proj", "post_attention_layernorm", "mlp.gate_proj", "mlp.up_proj",
                "mlp.down_proj"))
        return x

    def loss(self, ids, targets, weights):
        p = self.params
        return self._compiled[2](
            self.hidden(ids, compiled=True), p["model.norm.weight"], p["model.embed_tokens.weight"],
            targets.reshape(-1), weights.reshape(-1))

    def logits(self, hidden_rows):
        p = self.params
        return (_norm(hidden_rows, p["model.norm.weight"]).bfloat16()
                @ p["model.embed_tokens.weight"].bfloat16().t()).float()

    def attend(self, q, k, v):
        if q.device.type == "cpu":
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        if not torch.is_grad_enabled():
            with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
                return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        key = q.shape
        if key not in self._backends:
            self._backends[key] = self._fastest_backend(q, k, v)
        with sdpa_kernel(self._backends[key]):
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)

    @staticmethod
    def _fastest_backend(q, k, v):
        """Times flash and cuDNN attention at this shape; cuDNN only where results are equal."""
        def run(backend):
            leaves = [t.detach().clone().requires_grad_() for t in (q, k, v)]
            with sdpa_kernel(backend):
                out = F.scaled_dot_product_attention(*leaves, is_causal=True, enable_gqa=True)
            out.backward(q.detach())
            return [out.detach()] + [leaf.grad for leaf in leaves]

        times, results = {}, {}
        for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION):
            try:
                results[backend] = run(backend)
                torch.cuda.synchronize()
                start = time.perf_counter()
                for _ in range(3):
                    run(backend)
                torch.cuda.synchronize()
                times[backend] = time.perf_counter() - start
            except RuntimeError as error:
                print(f"attention backend {backend}: {error}", flush=True)
        flash = results[SDPBackend.FLASH_ATTENTION]
        for backend in list(times):
            pairs = zip(flash, results[backend])
            if any((a.float() - b.float()).norm() > 0.02 * a.float().norm() for a, b in pairs):
                print(f"attention backend {backend} differs from flash: not used", flush=True)
                del times[backend]
        best = min(times, key=times.get)
        print(f"attention {tuple(q.shape)}: {best.name}, ms "
              f"{ {b.name: round(t * 1e3 / 3, 2) for b, t in times.items()} }", flush=True)
        return best


def save_checkpoint(params, folder):
    """Writes bf16 weights and the two config files that `transformers` reads."""
    from safetensors.torch import save_file
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {n: p.detach().to("cpu", torch.bfloat16).contiguous() for n, p in params.items()}
    save_file(tensors, folder / "model.safetensors.part", metadata={"format": "pt"})
    (folder / "model.safetensors.part").chmod(0o644)
    (folder / "model.safetensors.part").rename(folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    generation = {"bos_token_id": 0, "eos_token_id": [1], "do_sample": False, "max_new_tokens": 48}
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")


def load_parameters(folder, device):
    from safetensors.torch import load_file
    tensors = load_file(pathlib.Path(folder) / "model.safetensors")
    return {n: t.float().to(device).requires_grad_() for n, t in tensors.items()}
