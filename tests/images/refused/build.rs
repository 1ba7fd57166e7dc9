//! Links the image.

fn main() {
    rumpuser_baremetal_image::link();
}
