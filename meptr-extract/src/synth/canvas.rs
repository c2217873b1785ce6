//! Canvas: an image on which shapes with antialiased edges are drawn.

/// Red, green, blue, 0 to 1.
pub(super) type Colour = [f32; 3];

/// A point in pixels, x to the right and y down.
pub(super) type Point = [f32; 2];

/// Image in memory, rows from the top.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Canvas {
    width: usize,
    height: usize,
    pixels: Vec<Colour>,
}

/// Area of an image: its signed distance function and its bounding box.
pub(super) struct Shape<'a> {
    /// Distance of a point to the edge in pixels, negative inside.
    pub(super) distance: &'a dyn Fn(Point) -> f32,
    /// Left, top, right, bottom; nothing is painted outside.
    pub(super) bounds: [f32; 4],
}

impl Canvas {
    /// Image with a colour for each point.
    pub(super) fn new(width: usize, height: usize, colour: impl Fn(Point) -> Colour) -> Self {
        let pixels = (0..width * height)
            .map(|index| colour([(index % width) as f32 + 0.5, (index / width) as f32 + 0.5]))
            .collect();
        Self { width, height, pixels }
    }

    /// Pixels in a row.
    pub(super) fn width(&self) -> usize {
        self.width
    }

    /// Rows.
    pub(super) fn height(&self) -> usize {
        self.height
    }

    /// All pixels, row by row.
    pub(super) fn pixels(&self) -> &[Colour] {
        &self.pixels
    }

    /// Draws a shape, its edge one pixel wide.
    pub(super) fn fill(&mut self, shape: &Shape<'_>, colour: impl Fn(Point) -> Colour) {
        self.mix(shape.bounds, |point| (0.5 - (shape.distance)(point)).clamp(0.0, 1.0), colour);
    }

    /// Draws an ellipse with the radii `radii`, rotated by `angle`.
    pub(super) fn ellipse(&mut self, centre: Point, radii: Point, angle: f32, colour: Colour) {
        let distance = |point| ellipse_distance(point, centre, radii, angle);
        let shape = Shape { distance: &distance, bounds: around(centre, radii[0].max(radii[1])) };
        self.fill(&shape, |_| colour);
    }

    /// Draws a line with round ends, its radius from `radii[0]` to `radii[1]`.
    pub(super) fn line(&mut self, from: Point, to: Point, radii: [f32; 2], colour: Colour) {
        let distance = |point| line_distance(point, from, to, radii);
        let reach = radii[0].max(radii[1]);
        let bounds = [
            from[0].min(to[0]) - reach,
            from[1].min(to[1]) - reach,
            from[0].max(to[0]) + reach,
            from[1].max(to[1]) + reach,
        ];
        self.fill(&Shape { distance: &distance, bounds }, |_| colour);
    }

    /// Draws a line through points.
    pub(super) fn curve(&mut self, points: &[Point], radius: f32, colour: Colour) {
        let distance = |point| {
            let parts = points.windows(2);
            let part = |ends: &[Point]| line_distance(point, ends[0], ends[1], [radius; 2]);
            parts.map(part).fold(f32::INFINITY, f32::min)
        };
        let bounds = points.iter().fold(
            [f32::INFINITY, f32::INFINITY, f32::NEG_INFINITY, f32::NEG_INFINITY],
            |box_, point| {
                [
                    box_[0].min(point[0] - radius),
                    box_[1].min(point[1] - radius),
                    box_[2].max(point[0] + radius),
                    box_[3].max(point[1] + radius),
                ]
            },
        );
        self.fill(&Shape { distance: &distance, bounds }, |_| colour);
    }

    /// Draws an axis-parallel rectangle: left, top, right, bottom.
    pub(super) fn rectangle(&mut self, bounds: [f32; 4], colour: Colour) {
        let distance = |[x, y]: Point| {
            let beside = (bounds[0] - x).max(x - bounds[2]);
            beside.max((bounds[1] - y).max(y - bounds[3]))
        };
        self.fill(&Shape { distance: &distance, bounds }, |_| colour);
    }

    /// Blends in a colour around a point, by `share` at the centre and less outwards.
    pub(super) fn blob(&mut self, centre: Point, radii: Point, share: f32, colour: Colour) {
        let weight = |point: Point| {
            let [x, y] = [0, 1].map(|axis| (point[axis] - centre[axis]) / radii[axis]);
            share * (-2.0 * (x * x + y * y)).exp()
        };
        let bounds = around(centre, 1.8 * radii[0].max(radii[1]));
        self.mix(bounds, weight, |_| colour);
    }

    fn mix(
        &mut self,
        bounds: [f32; 4],
        weight: impl Fn(Point) -> f32,
        colour: impl Fn(Point) -> Colour,
    ) {
        let within = |value: f32, length: usize| value.clamp(0.0, length as f32) as usize;
        let columns = within(bounds[0] - 1.0, self.width)..within(bounds[2] + 2.0, self.width);
        for y in within(bounds[1] - 1.0, self.height)..within(bounds[3] + 2.0, self.height) {
            for x in columns.clone() {
                let point = [x as f32 + 0.5, y as f32 + 0.5];
                let weight = weight(point);
                if weight > 0.0 {
                    let (pixel, colour) = (&mut self.pixels[y * self.width + x], colour(point));
                    for (value, new) in pixel.iter_mut().zip(colour) {
                        *value += (new - *value) * weight;
                    }
                }
            }
        }
    }
}

/// Interpolates from a colour to another, by `share` from 0 to 1.
pub(super) fn blend(from: Colour, to: Colour, share: f32) -> Colour {
    std::array::from_fn(|index| super::between(from[index], to[index], share))
}

/// Scales the brightness of a colour: brighter above 1, darker below.
pub(super) fn scaled(colour: Colour, by: f32) -> Colour {
    colour.map(|value| (value * by).clamp(0.0, 1.0))
}

/// Colour of a hue (in turns), saturation and brightness, each 0 to 1.
pub(super) fn from_hue(hue: f32, saturation: f32, brightness: f32) -> Colour {
    [0.0, 1.0 / 3.0, 2.0 / 3.0].map(|shift| {
        let wave = 0.5 + 0.5 * (std::f32::consts::TAU * (hue - shift)).cos();
        brightness * (1.0 - saturation * (1.0 - wave))
    })
}

/// Approximate distance of a point to an ellipse, exact on its edge.
pub(super) fn ellipse_distance(point: Point, centre: Point, radii: Point, angle: f32) -> f32 {
    let (sine, cosine) = angle.sin_cos();
    let (x, y) = (point[0] - centre[0], point[1] - centre[1]);
    let (x, y) = (cosine * x + sine * y, cosine * y - sine * x);
    let near = (x / radii[0]).hypot(y / radii[1]);
    let far = (x / radii[0] / radii[0]).hypot(y / radii[1] / radii[1]);
    if far == 0.0 { -radii[0].min(radii[1]) } else { near * (near - 1.0) / far }
}

fn line_distance(point: Point, from: Point, to: Point, radii: [f32; 2]) -> f32 {
    let (x, y) = (point[0] - from[0], point[1] - from[1]);
    let (dx, dy) = (to[0] - from[0], to[1] - from[1]);
    let length = dx * dx + dy * dy;
    let along = if length == 0.0 { 0.0 } else { ((x * dx + y * dy) / length).clamp(0.0, 1.0) };
    (x - along * dx).hypot(y - along * dy) - super::between(radii[0], radii[1], along)
}

fn around(centre: Point, reach: f32) -> [f32; 4] {
    [centre[0] - reach, centre[1] - reach, centre[0] + reach, centre[1] + reach]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_where_they_should_be() {
        let mut canvas = Canvas::new(20, 10, |_| [0.0; 3]);
        canvas.ellipse([10.0, 5.0], [6.0, 3.0], 0.0, [1.0; 3]);
        canvas.line([2.0, 8.0], [2.0, 8.0], [1.5, 1.5], [0.5; 3]);
        let at = |x: usize, y: usize| canvas.pixels()[y * 20 + x][0];
        assert_eq!((at(10, 5), at(14, 5), at(2, 8)), (1.0, 1.0, 0.5));
        assert_eq!((at(10, 9), at(18, 5), at(0, 0)), (0.0, 0.0, 0.0));
    }

    #[test]
    fn nothing_is_painted_outside_the_picture() {
        let mut canvas = Canvas::new(4, 4, |_| [0.0; 3]);
        canvas.ellipse([-50.0, -50.0], [3.0, 3.0], 0.0, [1.0; 3]);
        canvas.rectangle([-9.0, -9.0, 99.0, 99.0], [1.0; 3]);
        assert!(canvas.pixels().iter().all(|pixel| *pixel == [1.0; 3]));
    }
}
