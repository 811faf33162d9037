"""Face synthesis: new faces by a variational autoencoder or a GAN."""
