"""Text encoders, their tokenisers, and where in a caption its phrases stand."""
