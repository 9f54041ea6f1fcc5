-- What every fork finds. Put your own schema and rows here.
create table fruit (id int primary key, name text not null unique, price numeric(6, 2));
insert into fruit values (1, 'apple', 0.40), (2, 'banana', 0.25), (3, 'cherry', 4.00);
