//! Colours of plots: told apart by readers who see fewer colours, and at three to one against white.
//!
//! The page replaces each by a lighter one where the ground is dark (`html/style.css` names them by these values).

use plotters::style::RGBColor;

/// Text and marks that matter most.
pub(super) const INK: RGBColor = RGBColor(0x1F, 0x29, 0x33);

/// Axes.
pub(super) const AXIS: RGBColor = RGBColor(0x5B, 0x67, 0x70);

/// Lines behind the data.
pub(super) const GRID: RGBColor = RGBColor(0xDD, 0xE1, 0xE6);

/// What is wrong: not finite, onset.
pub(super) const TROUBLE: RGBColor = RGBColor(0xB4, 0x1F, 0x1F);

/// What is right: the state to go back to.
pub(super) const HEALTHY: RGBColor = RGBColor(0x00, 0x75, 0x54);

/// Kinds of things, in order: after Okabe and Ito, darkened.
pub(super) const KINDS: [RGBColor; 7] = [
    RGBColor(0x00, 0x66, 0xA8),
    RGBColor(0xC2, 0x4E, 0x00),
    RGBColor(0x00, 0x80, 0x5C),
    RGBColor(0xA0, 0x4C, 0x82),
    RGBColor(0x86, 0x60, 0x00),
    RGBColor(0x4B, 0x4B, 0xC0),
    RGBColor(0x6B, 0x77, 0x85),
];

/// From far below what is usual over usual to far above.
pub(super) const LEVELS: [RGBColor; 7] = [
    RGBColor(0x2C, 0x5F, 0x9E),
    RGBColor(0x8F, 0xB4, 0xDB),
    RGBColor(0xEC, 0xEC, 0xE4),
    RGBColor(0xF6, 0xD3, 0x8A),
    RGBColor(0xEE, 0x9A, 0x45),
    RGBColor(0xD2, 0x55, 0x1E),
    RGBColor(0x7A, 0x16, 0x1A),
];
