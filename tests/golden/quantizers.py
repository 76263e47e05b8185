"""Weights in the layouts of quantised releases, and what they stand for in float64.

A quantizer takes the name of a weight as it would be if it were plain, and the weight [..., out, in]; it returns the
tensors that are stored and the decoded weight. Decoding is written from the definitions of the formats or done by torch,
and shares nothing with the library.
"""

import torch

E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6], dtype=torch.float64)
F8, E8M0 = torch.float8_e4m3fn, torch.float8_e8m0fnu


def spread(grid, block, shape):
    """A grid of scales as one number per element; a block of 0 is never left."""
    for axis, (size, length) in enumerate(zip(block, shape[-2:])):
        grid = grid.repeat_interleave(size or length, dim=axis - 2)
    return grid[..., : shape[-2], : shape[-1]].double()


def largest(w, block):
    """[..., blocks of outputs, blocks of inputs]"""
    out, inner = w.shape[-2:]
    rows, cols = block[0] or out, block[1] or inner
    pad = (0, -inner % cols, 0, -out % rows)
    blocks = torch.nn.functional.pad(w.abs(), pad).unfold(-2, rows, rows).unfold(-2, cols, cols)
    return blocks.amax((-1, -2)).clamp(min=1e-6)


def power_above(x):
    """Exponents as e8m0 has them."""
    return (torch.log2(x.double()).ceil() + 127).clamp(0, 254).to(torch.uint8)


def power(codes):
    return torch.pow(2.0, codes.double() - 127)


def nearest_e2m1(x):
    codes = (x.abs().unsqueeze(-1) - E2M1).abs().argmin(-1)
    codes = codes + 8 * (x < 0)
    return codes.to(torch.uint8), torch.where(x < 0, -1.0, 1.0) * E2M1[codes % 8]


def halves(codes):
    """Two codes per byte, the even one low."""
    return codes[..., 0::2] | (codes[..., 1::2] << 4)


def words(codes, bits):
    """Codes along the last axis in i32, the first one lowest."""
    count = 32 // bits
    codes = torch.nn.functional.pad(codes.long(), (0, -codes.shape[-1] % count))
    parts = codes.unflatten(-1, (-1, count)) << (bits * torch.arange(count))
    total = parts.sum(-1)
    return torch.where(total >= 2**31, total - 2**32, total).to(torch.int32)


def stem(name):
    return name.removesuffix("weight")


def fp8(suffix, block, scale_type=torch.float32):
    """Scales for blocks; the type u8 stands for e8m0."""

    def quantize(name, w):
        top = largest(w, block) / 448
        if scale_type in (E8M0, torch.uint8):
            codes = power_above(top)
            stored, scale = codes.view(scale_type), power(codes)
        else:
            stored = top.to(scale_type)
            scale = stored.double()
        scales = spread(scale, block, w.shape)
        codes = (w.double() / scales).clamp(-448, 448).float().to(F8)
        key = stem(name) + suffix if name.endswith("weight") else f"{name}_{suffix}"
        if block == (0, 0) and w.dim() == 2:
            stored = stored.reshape(())
        return {name: codes, key: stored}, codes.double() * scales

    return quantize


def mxfp4_bytes(name, w):
    """DeepSeek-V4: I8 with scales in e8m0."""
    scale = power_above(largest(w, (1, 32)) / 6)
    scales = spread(power(scale), (1, 32), w.shape)
    codes, values = nearest_e2m1(w.double() / scales)
    return {
        name: halves(codes).view(torch.int8),
        stem(name) + "scale": scale.view(E8M0),
    }, values * scales


def mxfp4_blocks(name, w):
    """GPT-OSS: [..., out, in / 32, 16] and scales beside."""
    stored, values = mxfp4_bytes("weight", w)
    codes = stored["weight"].view(torch.uint8).unflatten(-1, (-1, 16))
    scales = stored["scale"].view(torch.uint8)
    return {f"{name}_blocks": codes, f"{name}_scales": scales}, values


def mxfp4_packed(name, w):
    """compressed-tensors."""
    stored, values = mxfp4_bytes("weight", w)
    return {
        f"{name}_packed": stored["weight"].view(torch.uint8),
        f"{name}_scale": stored["scale"].view(torch.uint8),
    }, values


def nvfp4(codes_suffix, factor_suffix, divides):
    def quantize(name, w):
        factor = (w.abs().max() / (6 * 448)).float()
        stored_factor = (1 / factor).float() if divides else factor
        exact = 1 / stored_factor.double() if divides else stored_factor.double()
        scale = (largest(w, (1, 16)).double() / (6 * exact)).float().to(F8)
        scales = spread(scale.float(), (1, 16), w.shape) * exact
        codes, values = nearest_e2m1(w.double() / scales)
        return {
            name + codes_suffix: halves(codes),
            f"{name}_scale": scale,
            name + factor_suffix: stored_factor.reshape((1,) if divides else ()),
        }, values * scales

    return quantize


def int_packed(bits, group):
    """compressed-tensors: offset by half the range, scales in bf16."""

    def quantize(name, w):
        half = 2 ** (bits - 1)
        scale = (largest(w, (1, group)) / (half - 1)).bfloat16()
        scales = spread(scale, (1, group), w.shape)
        codes = (w.double() / scales).round().clamp(-half, half - 1)
        return {
            f"{name}_packed": words(codes + half, bits),
            f"{name}_scale": scale,
            f"{name}_shape": torch.tensor(w.shape[-2:]),
        }, codes * scales

    return quantize


def int8(name, w):
    """compressed-tensors: one scale per output."""
    scale = (largest(w, (1, 0)) / 127).float()
    codes = (w.double() / scale.double()).round().clamp(-128, 127)
    return {name: codes.to(torch.int8), f"{name}_scale": scale}, codes * scale.double()


def gptq(bits, group, symmetric, stored_less=1):
    """Codes along the inputs, scales and zeros [groups, out]."""

    def quantize(name, w):
        top, count = 2**bits - 1, w.shape[1] // group
        grouped = w.double().unflatten(1, (count, group))
        low = grouped.amin(-1).clamp(max=0)
        high = grouped.amax(-1).clamp(min=0)
        if symmetric:
            high = torch.maximum(high, -low)
            low = -high
        scale = ((high - low) / top).half()
        zero = (-low / scale.double()).round().clamp(1, top)
        if symmetric:
            zero = torch.full_like(zero, 2 ** (bits - 1))
        scales, zeros = (x.double().repeat_interleave(group, dim=1) for x in (scale, zero))
        codes = (w.double() / scales + zeros).round().clamp(0, top)
        base = stem(name)
        return {
            base + "qweight": words(codes, bits).T,
            base + "scales": scale.T,
            base + "qzeros": words(zero.T - stored_less, bits),
            base + "g_idx": torch.arange(w.shape[1], dtype=torch.int32) // group,
        }, (codes - zeros) * scales

    return quantize


def plain(name, w):
    half = w.half()
    return {name: half}, half.double()
