"""Operations with more than one implementation: the plain one is the meaning of the others."""
