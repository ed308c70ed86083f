//! Convolutions of networks that transformers and timm make from a config, and what the config says of them.

use super::geometry::{ConfigSection, Stated};
use crate::analysis::model::GeometrySource;

/// What `section` says of the convolution of this name and shape: outputs, inputs of a group, kernel.
pub(super) fn claim(section: &ConfigSection<'_>, name: &str, shape: &[u64]) -> Option<Stated> {
    let (channels, kernel) = shape.split_at_checked(2)?;
    patches(section, name, channels, kernel)
        .or_else(|| spectrogram_patches(section, name, kernel))
        .or_else(|| feature_encoder(section, name, channels, kernel))
        .or_else(|| whisper(section, name, channels, kernel))
        .or_else(|| state_space(section, name, channels, kernel))
        .or_else(|| position_encoder(section, name, channels, kernel))
        .or_else(|| resnet(section, name, channels, kernel))
        .or_else(|| convnext(section, name, channels, kernel))
}

/// How the modules that project patches are called.
const PATCHES: [&str; 3] = ["patch_emb", "patch_conv", "patchifier"];

/// Keys of patches whose stride is not their size.
const OVERLAPPING: [&str; 8] = [
    "patch_stride",
    "patch_strides",
    "patch_padding",
    "strides",
    "stride",
    "frequency_stride",
    "time_stride",
    "use_conv_embed",
];

const CHANNELS: [&str; 3] = ["num_channels", "in_channels", "in_chans"];

/// Patches that lie side by side: the stride is the kernel.
fn patches(section: &ConfigSection<'_>, name: &str, channels: &[u64], kernel: &[u64]) -> Option<Stated> {
    let is_named = PATCHES.iter().any(|part| name.contains(part));
    if !is_named || OVERLAPPING.iter().any(|key| section.says(key)) {
        return None;
    }
    let fits = CHANNELS.iter().find_map(|key| section.number(key)).is_none_or(|given| given == channels[1]);
    if !fits || !(is_patch(section, kernel) || is_patch_of_timm(section, name, kernel)) {
        return None;
    }
    let stated = Stated::by_config(kernel.to_vec(), vec![0; kernel.len()]);
    Some(match image(section, kernel.len()) {
        Some(image) => stated.on(image),
        None => stated,
    })
}

/// Whether the config's patches have the size of the kernel; those of films have a length in frames as well.
fn is_patch(section: &ConfigSection<'_>, kernel: &[u64]) -> bool {
    match kernel {
        [frames, height, width] => {
            let tubelet = section.list("tubelet_size").is_some_and(|sizes| sizes == kernel);
            let length = ["tubelet_size", "temporal_patch_size"].iter().find_map(|key| section.number(key));
            tubelet
                || (length == Some(*frames)
                    && section.sizes("patch_size", 2).is_some_and(|sizes| sizes == [*height, *width]))
        }
        [_, _] => section.sizes("patch_size", 2).is_some_and(|sizes| sizes == kernel),
        _ => false,
    }
}

/// Whether the name of timm's architecture says patches of this size: `vit_base_patch16_224`.
fn is_patch_of_timm(section: &ConfigSection<'_>, name: &str, kernel: &[u64]) -> bool {
    let [height, width] = kernel else { return false };
    let Some((_, rest)) = section.text("architecture").split_once("patch") else { return false };
    let digits = rest.split(|letter: char| !letter.is_ascii_digit()).next().unwrap_or_default();
    height == width && name.ends_with("patch_embed.proj.weight") && digits.parse() == Ok(*height)
}

/// The size of the images, or of the films.
fn image(section: &ConfigSection<'_>, axes: usize) -> Option<Vec<u64>> {
    if let Some(part) = section.get("pretrained_cfg").and_then(serde_json::Value::as_object) {
        let sizes = ConfigSection::Part(part).list("input_size")?;
        return sizes.get(1..).map(<[u64]>::to_vec).filter(|sizes| sizes.len() == axes);
    }
    let image = section.sizes("image_size", 2)?;
    match axes {
        2 => Some(image),
        3 => Some([vec![section.number("num_frames")?], image].concat()),
        _ => None,
    }
}

/// Patches of a spectrogram, which overlap (AST).
fn spectrogram_patches(section: &ConfigSection<'_>, name: &str, kernel: &[u64]) -> Option<Stated> {
    let is_named = name.contains("patch_embeddings") && section.sizes("patch_size", 2)? == kernel;
    let stride = vec![section.number("frequency_stride")?, section.number("time_stride")?];
    let input = vec![section.number("num_mel_bins")?, section.number("max_length")?];
    is_named.then(|| Stated::by_config(stride, vec![0, 0]).on(input))
}

/// The front of wav2vec 2.0, HuBERT and their like: a stack of convolutions over the waveform, without padding.
fn feature_encoder(
    section: &ConfigSection<'_>,
    name: &str,
    channels: &[u64],
    kernel: &[u64],
) -> Option<Stated> {
    let (_, layer) = name.split_once(".conv_layers.")?;
    let index: usize = layer.strip_suffix(".conv.weight")?.parse().ok()?;
    let of_layer = |key: &str| section.list(key)?.get(index).copied();
    let fits = [of_layer("conv_kernel")?] == *kernel && of_layer("conv_dim")? == channels[0];
    fits.then(|| of_layer("conv_stride")).flatten().map(|stride| Stated::by_config(vec![stride], vec![0]))
}

/// The two convolutions over the spectrogram of Whisper's encoder and its like; the second halves the length.
fn whisper(section: &ConfigSection<'_>, name: &str, channels: &[u64], kernel: &[u64]) -> Option<Stated> {
    let (bins, positions) = (section.number("num_mel_bins")?, section.number("max_source_positions")?);
    let (inputs, stride) = match name.rsplit('.').nth(1)? {
        "conv1" => (bins, 1),
        "conv2" => (channels[0], 2),
        _ => return None,
    };
    let fits = kernel == [3] && channels[1] == inputs;
    fits.then(|| Stated::by_config(vec![stride], vec![1]).on(vec![2 * positions]))
}

/// Keys of the kernel of a state-space layer's short convolution.
const SHORT_KERNELS: [&str; 5] =
    ["conv_kernel", "mamba_d_conv", "d_conv", "linear_conv_kernel_dim", "conv1d_width"];

/// The short convolution of a state-space layer: one filter a channel. Its padding is on one side, which no geometry here has.
fn state_space(section: &ConfigSection<'_>, name: &str, channels: &[u64], kernel: &[u64]) -> Option<Stated> {
    let module = name.rsplit('.').nth(1)?;
    let is_named = ["conv1d", "conv_1d"].contains(&module) && channels[1] == 1;
    let taps = SHORT_KERNELS.iter().find_map(|key| section.number(key))?;
    let mut stated = Stated::by_config(vec![1], Vec::new()).in_groups(channels[0]);
    stated.sources.padding = GeometrySource::Assumed;
    (is_named && kernel == [taps]).then_some(stated)
}

/// The convolution over the encoded waveform that tells positions (data2vec; that of wav2vec 2.0 has a weight of two factors).
fn position_encoder(
    section: &ConfigSection<'_>,
    name: &str,
    channels: &[u64],
    kernel: &[u64],
) -> Option<Stated> {
    let taps =
        ["conv_pos_kernel_size", "num_conv_pos_embeddings"].iter().find_map(|key| section.number(key))?;
    let groups = section.number("num_conv_pos_embedding_groups")?;
    let fits = name.contains("pos_conv_embed")
        && kernel == [taps]
        && channels[1].checked_mul(groups)? == channels[0];
    fits.then(|| Stated::by_config(vec![1], vec![taps / 2]).in_groups(groups))
}

/// `ResNet` and `RegNet` of transformers, whose stages begin with a stride in a place that the config says.
fn resnet(section: &ConfigSection<'_>, name: &str, channels: &[u64], kernel: &[u64]) -> Option<Stated> {
    if !["resnet", "regnet"].contains(&section.text("model_type")) {
        return None;
    }
    let (mut stride, mut groups) = (1, 1);
    if name.ends_with("embedder.embedder.convolution.weight") {
        stride = 2;
    } else {
        let (_, place) = name.split_once("encoder.stages.")?;
        let parts: Vec<&str> = place.split('.').collect();
        let [stage, "layers", layer, ref rest @ ..] = parts[..] else { return None };
        let (stage, layer): (u64, u64) = (stage.parse().ok()?, layer.parse().ok()?);
        let is_first = layer == 0 && (stage > 0 || section.says("downsample_in_first_stage"));
        let is_bottleneck = section.text("layer_type") != "basic";
        let strided = u64::from(is_bottleneck && !section.says("downsample_in_bottleneck"));
        let is_there = match rest {
            ["shortcut", "convolution", "weight"] => true,
            ["layer", index, "convolution", "weight"] => index.parse() == Ok(strided),
            _ => return None,
        };
        if is_first && is_there {
            stride = 2;
        }
        if let Some(width) = section.number("groups_width").filter(|_| kernel == [3, 3]) {
            groups = (channels[0] / width).max(1);
        }
    }
    let padding = kernel.iter().map(|taps| taps / 2).collect();
    Some(Stated::by_config(vec![stride; kernel.len()], padding).in_groups(groups))
}

/// `ConvNeXt`: one filter of 7×7 a channel, which keeps the size, and patches of 2×2 between stages.
fn convnext(section: &ConfigSection<'_>, name: &str, channels: &[u64], kernel: &[u64]) -> Option<Stated> {
    if !["convnext", "convnextv2"].contains(&section.text("model_type")) {
        return None;
    }
    match (name.rsplit('.').nth(1)?, channels, kernel) {
        ("dwconv", [channels, 1], [7, 7]) => {
            Some(Stated::by_config(vec![1, 1], vec![3, 3]).in_groups(*channels))
        }
        (_, _, [2, 2]) if name.contains(".downsampling_layer.") => {
            Some(Stated::by_config(vec![2, 2], vec![0, 0]))
        }
        _ => None,
    }
}
