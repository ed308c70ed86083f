//! What plots are drawn on: an SVG element or pixels. One type, so that every plot is compiled once.

use std::io;

use plotters::backend::{BitMapBackend, SVGBackend};
use plotters_backend::{
    BackendColor, BackendCoord, BackendStyle, BackendTextStyle, DrawingBackend, DrawingErrorKind,
};

/// A canvas in memory.
pub(super) enum Surface<'a> {
    Svg(SVGBackend<'a>),
    Pixels(BitMapBackend<'a>),
}

/// A style whose type says nothing.
struct Plain {
    color: BackendColor,
    stroke_width: u32,
}

impl Plain {
    fn of(style: &impl BackendStyle) -> Self {
        Self { color: style.color(), stroke_width: style.stroke_width() }
    }
}

impl BackendStyle for Plain {
    fn color(&self) -> BackendColor {
        self.color
    }

    fn stroke_width(&self) -> u32 {
        self.stroke_width
    }
}

type Done<T = ()> = Result<T, DrawingErrorKind<io::Error>>;

/// The error of either, as one.
fn either<T, E: std::error::Error + Send + Sync + 'static>(done: Result<T, DrawingErrorKind<E>>) -> Done<T> {
    done.map_err(|error| match error {
        DrawingErrorKind::DrawingError(error) => DrawingErrorKind::DrawingError(io::Error::other(error)),
        DrawingErrorKind::FontError(error) => DrawingErrorKind::FontError(error),
    })
}

/// Calls one method of whichever it is.
macro_rules! forward {
    ($self:ident.$method:ident($($argument:expr),*)) => {
        match $self {
            Surface::Svg(svg) => either(svg.$method($($argument),*)),
            Surface::Pixels(pixels) => either(pixels.$method($($argument),*)),
        }
    };
}

impl DrawingBackend for Surface<'_> {
    type ErrorType = io::Error;

    fn get_size(&self) -> (u32, u32) {
        match self {
            Surface::Svg(svg) => svg.get_size(),
            Surface::Pixels(pixels) => pixels.get_size(),
        }
    }

    fn ensure_prepared(&mut self) -> Done {
        forward!(self.ensure_prepared())
    }

    fn present(&mut self) -> Done {
        forward!(self.present())
    }

    fn draw_pixel(&mut self, point: BackendCoord, color: BackendColor) -> Done {
        forward!(self.draw_pixel(point, color))
    }

    fn draw_line<S: BackendStyle>(&mut self, from: BackendCoord, to: BackendCoord, style: &S) -> Done {
        let style = Plain::of(style);
        forward!(self.draw_line(from, to, &style))
    }

    fn draw_rect<S: BackendStyle>(
        &mut self,
        from: BackendCoord,
        to: BackendCoord,
        style: &S,
        fill: bool,
    ) -> Done {
        let style = Plain::of(style);
        forward!(self.draw_rect(from, to, &style, fill))
    }

    fn draw_path<S: BackendStyle, I: IntoIterator<Item = BackendCoord>>(
        &mut self,
        path: I,
        style: &S,
    ) -> Done {
        let (style, path) = (Plain::of(style), path.into_iter().collect::<Vec<_>>());
        forward!(self.draw_path(path, &style))
    }

    fn draw_circle<S: BackendStyle>(
        &mut self,
        center: BackendCoord,
        radius: u32,
        style: &S,
        fill: bool,
    ) -> Done {
        let style = Plain::of(style);
        forward!(self.draw_circle(center, radius, &style, fill))
    }

    fn fill_polygon<S: BackendStyle, I: IntoIterator<Item = BackendCoord>>(
        &mut self,
        ends: I,
        style: &S,
    ) -> Done {
        let (style, ends) = (Plain::of(style), ends.into_iter().collect::<Vec<_>>());
        forward!(self.fill_polygon(ends, &style))
    }

    fn draw_text<S: BackendTextStyle>(&mut self, text: &str, style: &S, at: BackendCoord) -> Done {
        forward!(self.draw_text(text, style, at))
    }

    fn estimate_text_size<S: BackendTextStyle>(&self, text: &str, style: &S) -> Done<(u32, u32)> {
        forward!(self.estimate_text_size(text, style))
    }
}
